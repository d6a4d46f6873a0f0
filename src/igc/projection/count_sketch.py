"""Count Sketch (Charikar, Chen and Farach-Colton, ICALP 2002): hashed copies that show a vector's largest numbers.

Row q of the sketch is a `Partition` of the D coordinates into c buckets under the seed child(q), so that a sketch is linear
and mergeable, and no table of size D is kept. Rows are scaled by 1 / sqrt(r), which gives E[A A^T] = I; `estimate` undoes
that.

A Partition's hash is a random shift of each group of c coordinates: those of one group never meet, others do with
probability 1 / c in each row, as under independent hashing; signs are independent. It costs one hash for c coordinates.
FetchSGD's published code, too, hashes in full only within a block, of a twentieth of the vector, and shifts its hashes by a
random offset from block to block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection
from igc.projection.partition import Partition
from igc.projection.philox import child_seed

_ESTIMATED: Final = 2**19  # rows at once: r estimates of each stay near the cache


@dataclass(frozen=True)
class CountSketch(Projection):
    """A sketch of ``rows`` times ``columns`` numbers.

    Attributes:
        rows: r; d = rows * columns, with columns <= D.
    """

    rows: int = 1

    family: ClassVar[str] = "count-sketch"
    compresses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.rows <= 255:
            raise ProjectionError(f"rows = {self.rows}; a sketch has 1 to 255")
        if self.d % self.rows:
            raise ProjectionError(f"d = {self.d:,} numbers are not {self.rows} rows of equal length")
        if self.columns > self.D:
            raise ProjectionError(
                f"columns = {self.columns:,} exceeds D = {self.D:,}, the number of trainable parameters; choose fewer"
            )

    @property
    def columns(self) -> int:
        """Buckets of a row, c."""
        return self.d // self.rows

    @property
    @override
    def granule(self) -> int:
        return self.columns

    def estimate(self, sketch: Tensor) -> Tensor:
        """The vector that a sketch is of, as far as it tells: the median over rows of what each row says.

        Args:
            sketch: (d,), float32.

        Returns:
            float32 (D,). Of an even number of rows the lower median.

        Raises:
            ProjectionError: the shape or dtype does not fit.
        """
        self._check_low(sketch, "sketch")
        table = sketch.view(self.rows, self.columns) * self.rows**0.5
        found = torch.empty(self.D, dtype=torch.float32, device=sketch.device)
        for start in range(0, self.D, _ESTIMATED):
            stop = min(start + _ESTIMATED, self.D)
            said = [part._expand(row, start, stop) for part, row in zip(self._parts, table, strict=True)]
            found[start:stop] = _median_(said)
        return found

    @override
    def _kernel_project_(
        self, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Sequence[float] | None = None
    ) -> bool:
        weights = [self.rows**-0.5 * scale for scale in scales or [1.0] * len(pieces)]
        rows = zip(self._parts, out.view(self.rows, self.columns), strict=True)
        # Every row's kernel takes these pieces, or none does.
        return all(part._kernel_project_(pieces, start, row, weights) for part, row in rows)

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        g.mul_(self.rows**-0.5)
        for part, row in zip(self._parts, out.view(self.rows, self.columns), strict=True):
            part._project_(g.clone(), start, row)

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        rows = x.view(self.rows, self.columns)
        y = torch.zeros(stop - start, dtype=torch.float32, device=x.device)
        for part, row in zip(self._parts, rows, strict=True):
            y.add_(part._expand(row, start, stop))
        return y.mul_(self.rows**-0.5)

    @cached_property
    def _parts(self) -> list[Partition]:
        return [Partition(self.D, self.columns, child_seed(self.seed, row)) for row in range(self.rows)]


def _median_(tensors: list[Tensor]) -> Tensor:
    """The lower median of some tensors, element by element; they are overwritten.

    Rounds of comparing neighbours sort each element's values: for few tensors far faster than sorting along an axis.
    """
    count = len(tensors)
    for step in range(count):
        for i in range(step % 2, count - 1, 2):
            low = torch.minimum(tensors[i], tensors[i + 1])
            torch.maximum(tensors[i], tensors[i + 1], out=tensors[i + 1])
            tensors[i] = low
    return tensors[(count - 1) // 2]
