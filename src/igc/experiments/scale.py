"""Scaled projections whose weights every party computes for itself: from a table, or from theta_0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from igc.experiments.groups import check_patterns
from igc.projection import Projection, Scaled
from igc.projection.scaled import powers
from igc.space import ParameterSpace


def scaled_by_table(projection: Projection, space: ParameterSpace, table: Mapping[str, float]) -> Scaled:
    """A projection with weights in the proportions of a table.

    Args:
        projection: A'.
        space: of the model.
        table: glob pattern of tensors' names -> proportion; the first that fits counts, and 1 where none does.

    Raises:
        SpaceError: a pattern fits no tensor of the space.
    """
    check_patterns("method.scale_table", table, space)
    names = [entry.name for entry in space.entries]
    raw = [next((weight for pattern, weight in table.items() if fnmatchcase(name, pattern)), 1.0) for name in names]
    return Scaled.of(projection, [entry.size for entry in space.entries], raw)


def scaled_by_weights(projection: Projection, theta: Sequence[Tensor], exponent: float, floor: float) -> Scaled:
    """A projection with weights that go with the root mean square of each of theta_0's tensors.

    Sums are formed in float64 and weights are float32, so that machines that add in another order get the same ones.

    Args:
        projection: A'.
        theta: the tensors of theta_0.
        exponent: of the root mean squares.
        floor: the least weight, as a share of their root mean square; of a negative exponent the least root mean square of
            a tensor, as a share of all tensors', too.
    """
    sizes = [tensor.numel() for tensor in theta]
    squares = [_mean_square(tensor) for tensor in theta]
    return Scaled.of(projection, sizes, powers(sizes, squares, exponent, floor), floor)


def _mean_square(tensor: Tensor) -> float:
    if not tensor.numel():
        return 0.0
    flat = tensor.detach().reshape(-1)
    pieces = torch.split(flat, 2**20)  # no copy of the tensor in float64
    # On the CPU, wherever the model is: parties must get the same weights to the last bit.
    squares = [float(piece.to("cpu", torch.float64).square().sum()) for piece in pieces]
    return math.fsum(squares) / flat.numel()
