"""Blocked Hadamard, the default family: signs, one small Walsh-Hadamard transform, signs, in each block of rows.

Rows are cut into blocks of n, a power of two. Columns are cut into S = ceil(d / n) segments, sizes as equal as can be;
block b owns segment q = b mod S, of s columns, and there

    A_b = R_b H_n[:, :s] C_b / sqrt(s)

with random signs R_b (rows) and C_b (columns). Where S n divides D and S divides d, A^T A = (D/d) I exactly. For S = 1
this is METHOD.md's A_b = R_b H_n C_b / sqrt(d). The cost is O(D log n), all of it in cache; no padding of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection, next_power_of_two
from igc.projection.kernels import fwht, kernel_for
from igc.projection.philox import Stream
from igc.projection.signs import flip_

DEFAULT_MAX_BLOCK: Final = 2**14
MAX_BLOCK: Final = 2**24


@dataclass(frozen=True)
class BlockedHadamard(Projection):
    """Blocked Hadamard projection.

    Attributes:
        block: n, a power of two; 0 takes the smallest that is at least d, but no more than 2^14.
    """

    block: int = 0

    family: ClassVar[str] = "blocked-hadamard"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block == 0:
            # The resolved value is what is kept, so that specs written today outlive a change of the default.
            object.__setattr__(self, "block", min(next_power_of_two(self.d), DEFAULT_MAX_BLOCK))
        if not 1 <= self.block <= MAX_BLOCK or self.block & (self.block - 1):
            raise ProjectionError(f"block = {self.block}; a power of two up to 2^24 is needed (0: chosen from d)")

    @property
    @override
    def granule(self) -> int:
        return self.block

    @property
    def segments(self) -> int:
        """S, the number of parts that the columns are cut into."""
        return -(-self.d // self.block)

    @override
    def _kernel_project_(
        self, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Sequence[float] | None = None
    ) -> bool:
        kernel = kernel_for([*pieces, out], self.block)
        if kernel is not None:
            kernel.project_(self.d, self.block, self.seed, pieces, start, out, scales)
        return kernel is not None

    @override
    def _kernel_add_expanded_(
        self, pieces: Sequence[Tensor], start: int, x: Tensor, alpha: float, scales: Sequence[float] | None = None
    ) -> bool:
        x = x.detach().contiguous()
        kernel = kernel_for([*pieces, x], self.block)
        if kernel is not None:
            kernel.add_expanded_(self.d, self.block, self.seed, pieces, start, x, alpha, scales)
        return kernel is not None

    @override
    def _kernel_expand_onto_(
        self,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        x: Tensor,
        scales: Sequence[float] | None = None,
    ) -> bool:
        x = x.detach().contiguous()
        kernel = kernel_for([*pieces, *bases, x], self.block)
        if kernel is None or any(p.dtype != b.dtype for p, b in zip(pieces, bases, strict=True)):
            return False
        kernel.expand_onto_(self.d, self.block, self.seed, pieces, bases, 0, x, 1.0, scales)
        return True

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        n, S = self.block, self.segments
        first, last = start // n, -(-(start + g.numel()) // n)
        rows = self._whole_blocks(g, start, first, last)
        flip_(rows, self.seed, Stream.ROW_SIGNS, first * n)
        rows = fwht(rows.reshape(-1, n))
        flip_(rows.reshape(-1), self.seed, Stream.COLUMN_SIGNS, first * n)
        if S == 1:
            out.add_(rows.sum(0)[: self.d], alpha=self.d**-0.5)
            return
        # Consecutive blocks own consecutive segments, so that a run of blocks is added without an index.
        while first < last:
            q = first % S
            length = min(S - q, last - first)
            for low, high, size, offset in self._runs(q, q + length):
                part = rows[low - q : high - q, :size]
                out[offset : offset + part.numel()].view(-1, size).add_(part, alpha=size**-0.5)
            rows, first = rows[length:], first + length

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        n, S = self.block, self.segments
        first, last = start // n, -(-stop // n)
        rows = torch.zeros(last - first, n, dtype=torch.float32, device=x.device)
        if S == 1:
            rows[:, : self.d] = x * self.d**-0.5
        else:
            b = first
            while b < last:
                q = b % S
                length = min(S - q, last - b)
                for low, high, size, offset in self._runs(q, q + length):
                    part = x[offset : offset + (high - low) * size].view(-1, size)
                    rows[b - first + low - q : b - first + high - q, :size] = part * size**-0.5
                b += length
        flip_(rows.view(-1), self.seed, Stream.COLUMN_SIGNS, first * n)
        rows = fwht(rows).reshape(-1)
        flip_(rows, self.seed, Stream.ROW_SIGNS, first * n)
        return rows[start - first * n : stop - first * n]

    def _runs(self, low: int, high: int) -> list[tuple[int, int, int, int]]:
        """Segments low to high as runs (low, high, size, offset) of equal size.

        The first d mod S segments have ceil(d / S) columns, the rest floor(d / S).
        """
        size, longer = divmod(self.d, self.segments)
        runs: list[tuple[int, int, int, int]] = []
        if low < longer:
            runs.append((low, min(high, longer), size + 1, low * (size + 1)))
        if high > longer:
            begin = max(low, longer)
            runs.append((begin, high, size, begin * size + longer))
        return runs

    def _whole_blocks(self, g: Tensor, start: int, first: int, last: int) -> Tensor:
        n = self.block
        if start == first * n and g.numel() == (last - first) * n:
            return g
        rows = torch.zeros((last - first) * n, dtype=torch.float32, device=g.device)
        rows[start - first * n : start - first * n + g.numel()] = g
        return rows
