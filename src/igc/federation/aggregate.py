"""Aggregation: the streaming weighted mean of uploads, by group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from igc.errors import IgcError
from igc.methods import Means

_PIECE: Final = 2**16


class SkippedRoundError(IgcError):
    """A round's uploads came to nothing; training goes on with the next round."""


class Aggregation(Protocol):
    """What makes the means of a round's uploads."""

    def add(self, client: str, group: int, vector: Tensor, weight: float, loss: float) -> None:
        """Fold one upload in; ``vector`` is (d,) float32, ``weight`` positive."""

    def means(self) -> Means | None:
        """The means of all that was added; None if nothing was.

        Raises:
            SkippedRoundError: too little was added.
        """


class WeightedMean:
    """Adds uploads one by one, so that the server never holds W of them.

    Sums are kept in float64: the order in which uploads come then seldom touches the float32 result. Each group's sum is
    divided by the weight of the whole round, as the K-subspace method asks (METHOD.md, section 2).
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._loss = 0.0
        self._weight = 0.0
        self._clients: list[str] = []

    def add(self, client: str, group: int, vector: Tensor, weight: float, loss: float) -> None:
        """Fold one upload in; ``vector`` is (d,) float32, ``weight`` positive."""
        if group not in self._sums:
            self._sums[group] = torch.zeros(vector.shape, dtype=torch.float64)
        _add_(self._sums[group], vector, weight)
        self._loss += weight * loss
        self._weight += weight
        self._clients.append(client)

    def means(self) -> Means | None:
        """The means of all that was added; None if nothing was."""
        if not self._clients:
            return None
        groups = {k: (total / self._weight).to(torch.float32) for k, total in sorted(self._sums.items())}
        return Means(groups, self._loss / self._weight, tuple(self._clients))


def _add_(total: Tensor, vector: Tensor, weight: float) -> None:
    """``total += weight * vector`` in float64, in pieces that stay in the cache on their way through double precision."""
    # NumPy, for one thread: so short a piece is not worth waiting for another.
    sums, values = total.numpy(), vector.numpy()
    for begin in range(0, len(values), _PIECE):
        piece = slice(begin, begin + _PIECE)
        sums[piece] += np.multiply(values[piece], weight, dtype=np.float64)


def weighted_mean(uploads: Iterable[tuple[str, int, Tensor, float, float]]) -> Means | None:
    """`WeightedMean` of (client, group, vector, weight, loss) tuples."""
    mean = WeightedMean()
    for upload in uploads:
        mean.add(*upload)
    return mean.means()
