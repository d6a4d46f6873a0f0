"""Columns: projections of the same rows, side by side.

A = [c_1 A_1 | c_2 A_2 | ...], with c_q = sqrt(d_q / d): columns of all parts are then equally long, and E[A A^T] = I if it
is so of each part. Where `DirectSum` gives each group of rows columns of its own, here every part sees all rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection


@dataclass(frozen=True)
class Columns(Projection):
    """Projections side by side.

    Attributes:
        parts: of D rows each; the columns of the first come first.
    """

    D: int = field(init=False, repr=False)
    d: int = field(init=False, repr=False)
    seed: int = field(init=False, repr=False)
    parts: tuple[Projection, ...]

    family: ClassVar[str] = "columns"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))  # JSON has lists
        if not self.parts:
            raise ProjectionError("columns of nothing; give it parts")
        if len({part.D for part in self.parts}) > 1:
            rows = ", ".join(f"{part.D:,}" for part in self.parts)
            raise ProjectionError(f"projections side by side have the same rows; these have {rows}")
        object.__setattr__(self, "D", self.parts[0].D)
        object.__setattr__(self, "d", sum(part.d for part in self.parts))
        object.__setattr__(self, "seed", self.parts[0].seed)
        super().__post_init__()

    @property
    @override
    def granule(self) -> int:
        return max(part.granule for part in self.parts)

    @override
    def child(self, *path: int) -> Self:
        return dataclasses.replace(self, parts=tuple(part.child(*path) for part in self.parts))

    @override
    def spec(self) -> dict[str, Any]:
        return {"family": self.family, "parts": [part.spec() for part in self.parts]}

    def split(self, x: Tensor) -> list[Tensor]:
        """The x_q with A x = sum_q A_q x_q, float32 (d_q,), for an x (d,)."""
        return [x[low:high] * factor for _, low, high, factor in self._placed()]

    # All through the parts' public functions, which take a part's kernel where it has one.

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        for part, low, high, factor in self._placed():
            out[low:high].add_(part.project(g, start), alpha=factor)

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        first, *others = zip(self.parts, self.split(x), strict=True)
        y = first[0].expand(first[1], start, stop)
        for part, own in others:
            y.add_(part.expand(own, start, stop))
        return y

    @override
    def _kernel_project_(
        self, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Sequence[float] | None = None
    ) -> bool:
        found = torch.zeros_like(out)
        for part, low, high, factor in self._placed():
            if not part._kernel_project_(pieces, start, own := found[low:high], scales):
                return False
            own.mul_(factor)
        out.add_(found)
        return True

    # No kernel to expand: each part would round its sum with half-precision tensors by itself. `_expand` adds up first.

    def _placed(self) -> Iterator[tuple[Projection, int, int, float]]:
        """Each part, the columns that it has, and its factor."""
        for part, low in zip(self.parts, self._begins, strict=True):
            yield part, low, low + part.d, math.sqrt(part.d / self.d)

    @cached_property
    def _begins(self) -> list[int]:
        return [0, *accumulate(part.d for part in self.parts[:-1])]
