"""Dense Gaussian: independent normal entries of variance 1/d. O(D d): the reference for small problems."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor
from typing_extensions import override

from igc.projection.base import Projection
from igc.projection.signs import normals

_ENTRIES_AT_ONCE: Final = 2**20


@dataclass(frozen=True)
class DenseGaussian(Projection):
    """A[i, j] is normal number i d + j of the seed, divided by sqrt(d)."""

    family: ClassVar[str] = "dense-gaussian"

    @property
    @override
    def granule(self) -> int:
        return 1

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        for low, high in self._row_groups(g.numel()):
            out.add_(g[low:high] @ self._rows(start + low, start + high, g.device))

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        x = x.clone()  # at the start of a cache line: BLAS adds up in another order elsewhere
        parts = [self._rows(start + low, start + high, x.device) @ x for low, high in self._row_groups(stop - start)]
        return torch.cat(parts)

    def _rows(self, start: int, stop: int, device: torch.device) -> Tensor:
        entries = normals(self.seed, start * self.d, (stop - start) * self.d, device).div_(math.sqrt(self.d))
        return entries.to(torch.float32).view(-1, self.d)

    def _row_groups(self, count: int) -> list[tuple[int, int]]:
        step = max(_ENTRIES_AT_ONCE // self.d, 1)
        return [(low, min(low + step, count)) for low in range(0, count, step)]
