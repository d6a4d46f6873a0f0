"""Partition: one signed entry a row, so that every parameter moves with one coordinate of sigma.

CountSketch (Charikar, Chen and Farach-Colton 2002) with one row and balanced buckets; Uni-LoRA (Li et al. 2025) and GPart
(Mandica et al., arXiv:2605.14841) train in it. Rows are cut into groups of d; within group t, row j falls into bucket
(j + c_t) mod d, with a random shift c_t, times a random sign. Buckets so hold floor(D/d) or ceil(D/d) rows, A^T A is
diagonal with those counts, and two rows of different groups collide with probability 1/d, as under independent hashing, at
the cost of one hash a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

import torch
from torch import Tensor
from typing_extensions import override

from igc.projection import kernels
from igc.projection.base import Projection
from igc.projection.kernels import native
from igc.projection.philox import Stream, words
from igc.projection.signs import flip_

_FEW: Final = 128  # columns below which the native kernel, which goes from stretch to stretch, has nothing to win
_LONG: Final = 2**12  # groups of so many rows are moved one by one, shorter ones all at once


@dataclass(frozen=True)
class Partition(Projection):
    """Signed one-hot partition of the parameters into d balanced buckets."""

    family: ClassVar[str] = "partition"

    @property
    @override
    def granule(self) -> int:
        return self.d

    @override
    def _kernel_project_(
        self, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Sequence[float] | None = None
    ) -> bool:
        kernel = self._kernel([*pieces, out])
        if kernel is not None:
            kernel.partition_project_(self.d, self.seed, pieces, start, out, scales)
        return kernel is not None

    @override
    def _kernel_add_expanded_(
        self, pieces: Sequence[Tensor], start: int, x: Tensor, alpha: float, scales: Sequence[float] | None = None
    ) -> bool:
        return self._expand_onto_(pieces, pieces, start, x, alpha, scales)

    @override
    def _kernel_expand_onto_(
        self,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        x: Tensor,
        scales: Sequence[float] | None = None,
    ) -> bool:
        return self._expand_onto_(pieces, bases, 0, x, 1.0, scales)

    def _expand_onto_(
        self,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        start: int,
        x: Tensor,
        alpha: float,
        scales: Sequence[float] | None,
    ) -> bool:
        x = x.detach().contiguous()
        kernel = self._kernel([*pieces, *bases, x])
        if kernel is None or any(p.dtype != b.dtype for p, b in zip(pieces, bases, strict=True)):
            return False
        kernel.partition_expand_onto_(self.d, self.seed, pieces, bases, start, x, alpha, scales)
        return True

    def _kernel(self, tensors: Sequence[Tensor]) -> native.Native | None:
        return None if self.d < _FEW else kernels.native_for(tensors)

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        flip_(g, self.seed, Stream.ROW_SIGNS, start)
        if self.d >= _LONG:
            for at, bucket, n in self._runs(start, start + g.numel()):
                out[bucket : bucket + n].add_(g[at : at + n])
            return
        first, last = start // self.d, -(-(start + g.numel()) // self.d)
        groups = torch.zeros((last - first) * self.d, dtype=torch.float32, device=g.device)
        groups[start - first * self.d : start - first * self.d + g.numel()] = g
        buckets = torch.arange(self.d, device=g.device)
        rows = (buckets - self._shifts(first, last, g.device)) % self.d  # the row of each bucket, (groups, d)
        out.add_(groups.view(-1, self.d).gather(1, rows).sum(0))

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        if self.d >= _LONG:
            y = torch.empty(stop - start, dtype=torch.float32, device=x.device)
            for at, bucket, n in self._runs(start, stop):
                y[at : at + n] = x[bucket : bucket + n]
            return flip_(y, self.seed, Stream.ROW_SIGNS, start)
        first, last = start // self.d, -(-stop // self.d)
        rows = torch.arange(self.d, device=x.device)
        buckets = (rows + self._shifts(first, last, x.device)) % self.d
        y = x[buckets.view(-1)[start - first * self.d : stop - first * self.d]]
        return flip_(y, self.seed, Stream.ROW_SIGNS, start)

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Stretches of rows whose buckets follow one another: (first row less ``start``, its bucket, how many)."""
        first, last = start // self.d, -(-stop // self.d)
        for group, shift in enumerate(_shifts(self.seed, self.d, first, last), first):
            at, end = max(start, group * self.d), min(stop, (group + 1) * self.d)
            while at < end:
                bucket = (at + shift) % self.d
                n = min(end - at, self.d - bucket)
                yield at - start, bucket, n
                at += n

    def _shifts(self, first: int, last: int, device: torch.device) -> Tensor:
        """c_t = floor(word_t d / 2^32) for the groups t from first to last; (groups, 1)."""
        return (words(self.seed, Stream.SHIFTS, first, last - first, device) * self.d >> 32).view(-1, 1)


@lru_cache(maxsize=2**14)
def _shifts(seed: int, d: int, first: int, last: int) -> list[int]:
    """The same, for a slice that comes again in every round."""
    shifts: list[int] = (words(seed, Stream.SHIFTS, first, last - first) * d >> 32).tolist()
    return shifts
