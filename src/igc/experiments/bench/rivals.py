"""What else makes a few thousand numbers of a gradient, in PyTorch, as published."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

TOP_K: Final = 50_000
SKETCH_ROWS: Final = 5
SKETCH_COLUMNS: Final = 500_000
_PRIME: Final = 2**31 - 1
_CHUNK: Final = 2**20


class HashedSketch:
    """FetchSGD's count sketch (Rothchild et al., ICML 2020): each row hashes every coordinate to a column and a sign.

    Hashes are polynomials over a prime field, four-wise independent for the signs and pairwise for the columns, computed
    anew each time: kept, they would take 5 int64 for each parameter.
    """

    def __init__(self, rows: int = SKETCH_ROWS, columns: int = SKETCH_COLUMNS, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._hashes = torch.randint(1, _PRIME, (rows, 6), generator=generator).tolist()
        self._columns = columns

    def sketch(self, g: Tensor) -> Tensor:
        """The table (rows, columns) of a vector (D,)."""
        table = torch.zeros(len(self._hashes), self._columns, device=g.device)
        for start in range(0, g.numel(), _CHUNK):
            piece = g[start : start + _CHUNK]
            index = torch.arange(start, start + piece.numel(), device=g.device)
            for row, (h1, h2, h3, h4, h5, h6) in zip(table, self._hashes, strict=True):
                column = (index * h1 + h2) % _PRIME % self._columns
                sign = (((index * h3 + h4) % _PRIME * index + h5) % _PRIME * index + h6) % _PRIME % 2
                row.index_add_(0, column, piece * (2 * sign - 1))
        return table


def power_sgd(g: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """One step of PowerSGD at rank 1 (Vogels et al., NeurIPS 2019) on a vector as one matrix of ``q``'s width.

    Returns:
        (p, q): the factors that would be sent.
    """
    matrix = g[: g.numel() // q.numel() * q.numel()].view(-1, q.numel())
    p = matrix @ q
    p /= p.norm()
    return p, matrix.t() @ p


def square_side(D: int) -> int:
    """The side of the largest square matrix of at most D entries."""
    return math.isqrt(D)


def top_k(g: Tensor, k: int = TOP_K) -> Tensor:
    """The places of the k largest entries by size."""
    return torch.topk(g.abs(), min(k, g.numel()), sorted=False).indices
