"""The Walsh-Hadamard transform in plain PyTorch, on any device."""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch import Tensor

_LARGEST_FACTOR: Final = 128


def fwht(x: Tensor) -> Tensor:
    """Unnormalised Walsh-Hadamard transform of the last axis, in natural (Sylvester) order.

    ``y[i] = sum_j (-1)^popcount(i & j) x[j]``.

    Args:
        x: (..., n) float32, n a power of two; may be overwritten.

    Returns:
        (..., n) float32.
    """
    n = x.shape[-1]
    # H of n = a b is the Kronecker product of H_a and H_b, and BLAS is the fastest thing that PyTorch has. A caller who
    # lowered the precision of matrix products must not lower ours: sums of butterflies do not heed that setting.
    if not _products_are_exact():
        return _butterflies(x)
    done = 1
    while done < n:
        factor = min(n // done, _LARGEST_FACTOR)
        hadamard = _matrix(factor, x.device)
        if done == 1:
            x = (x.reshape(-1, factor) @ hadamard).reshape(x.shape)
        else:
            x = (hadamard @ x.reshape(-1, factor, done)).reshape(x.shape)
        done *= factor
    return x


def _products_are_exact() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # a precision was set by PyTorch's newer switches, which this one refuses to sum up
        return False


def _butterflies(x: Tensor) -> Tensor:
    shape = x.shape
    half = 1
    while half < shape[-1]:
        pairs = x.reshape(-1, 2, half)
        x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), dim=1)
        half *= 2
    return x.reshape(shape)


@cache
def _matrix(n: int, device: torch.device) -> Tensor:
    h = torch.ones(1, 1, device=device)
    while h.shape[0] < n:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return h
