"""Fastfood (Le, Sarlos and Smola, ICML 2013), as the intrinsic-dimension literature uses it.

Blocks of n rows, n a power of two of at least d, each

    A_b = H G_b P_b H B_b[:, :d] / sqrt(d sum(G_b^2))

with random signs B_b, a permutation P_b ((P v)[k] = v[pi(k)]) and normal G_b. Li et al. (2018) and Aghajanyan et al. (2020)
use one block over the next power of two of D; ``block`` set so gives theirs. The default, n of at least d, stacks blocks as
the original paper does, and does not pad the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection, next_power_of_two
from igc.projection.kernels import fwht
from igc.projection.philox import Stream
from igc.projection.signs import flip_, normals, permutations

MAX_BLOCK: Final = 2**30


@dataclass(frozen=True)
class Fastfood(Projection):
    """Fastfood projection.

    Attributes:
        block: n, a power of two of at least d; 0 takes the smallest.
    """

    block: int = 0

    family: ClassVar[str] = "fastfood"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block == 0:
            object.__setattr__(self, "block", next_power_of_two(self.d))
        if not self.d <= self.block <= MAX_BLOCK or self.block & (self.block - 1):
            raise ProjectionError(
                f"block = {self.block:,} with d = {self.d:,}; a power of two from d to 2^30 is needed (0: chosen from d)"
            )

    @property
    @override
    def granule(self) -> int:
        return self.block

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        first, last, gain, order = self._parts(start, start + g.numel(), g.device)
        rows = torch.zeros((last - first) * self.block, dtype=torch.float32, device=g.device)
        rows[start - first * self.block : start - first * self.block + g.numel()] = g
        mixed = fwht(rows.view(-1, self.block)).mul_(gain)
        spread = fwht(torch.empty_like(mixed).scatter_(1, order, mixed))
        flip_(spread.reshape(-1), self.seed, Stream.COLUMN_SIGNS, first * self.block)
        out.add_(spread.sum(0)[: self.d])

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        first, last, gain, order = self._parts(start, stop, x.device)
        rows = torch.zeros(last - first, self.block, dtype=torch.float32, device=x.device)
        rows[:, : self.d] = x
        flip_(rows.view(-1), self.seed, Stream.COLUMN_SIGNS, first * self.block)
        mixed = fwht(rows).gather(1, order).mul_(gain)
        return fwht(mixed).reshape(-1)[start - first * self.block : stop - first * self.block]

    def _parts(self, start: int, stop: int, device: torch.device) -> tuple[int, int, Tensor, Tensor]:
        """The blocks of some rows: first, last, G_b with the norm folded in (float32), pi_b; the last two (blocks, n)."""
        n = self.block
        first, last = start // n, -(-stop // n)
        gain = normals(self.seed, first * n, (last - first) * n, device).view(-1, n)
        gain = gain / (self.d * gain.square().sum(1, keepdim=True)).sqrt()
        order = permutations(self.seed, first, last - first, n.bit_length() - 1, device)
        return first, last, gain.to(torch.float32), order
