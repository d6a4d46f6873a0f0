"""Coordinates: A^T g is d of g's D coordinates, drawn from the seed.

Rows are cut into d strata of sizes as equal as can be; column j has one entry, in a row drawn uniformly from stratum j. So
coordinates are all different, any one of them is found without the others, and every row is as likely as its stratum's
others; entries are the root of the stratum's size, which gives E[A A^T] = I.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection
from igc.projection.philox import Stream, words


@dataclass(frozen=True)
class Coordinates(Projection):
    """One coordinate of each stratum."""

    family: ClassVar[str] = "coordinates"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.D // self.d >= 2**31:
            raise ProjectionError(f"d = {self.d:,} of D = {self.D:,} coordinates are too few; choose a larger d")

    @property
    @override
    def granule(self) -> int:
        return 1

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        columns, rows, entries = self._entries(start, start + g.numel(), g.device)
        out[columns] += g[rows - start] * entries

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        columns, rows, entries = self._entries(start, stop, x.device)
        y = torch.zeros(stop - start, dtype=torch.float32, device=x.device)
        y[rows - start] = x[columns] * entries
        return y

    def _entries(self, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Columns, rows and values of the entries in a slice of rows."""
        first, last = self._stratum(start), self._stratum(stop - 1) + 1
        columns = torch.arange(first, last, device=device)
        low, high = self._begin(columns), self._begin(columns + 1)
        rows = low + (words(self.seed, Stream.COORDINATES, first, last - first, device) * (high - low) >> 32)
        inside = (rows >= start) & (rows < stop)
        return columns[inside], rows[inside], (high - low)[inside].sqrt()

    def _stratum(self, row: int) -> int:
        return ((row + 1) * self.d - 1) // self.D

    def _begin(self, column: Tensor) -> Tensor:
        """Floor(column D / d), in steps that fit 64 bits."""
        size, longer = divmod(self.D, self.d)
        return column * size + column * longer // self.d
