"""Direct sum: tensors in groups, each group with a projection of its own, columns end to end.

A subspace can so give some tensors more dimensions than others, or all of theirs (`Identity`: small tensors sent in full,
beside the sketch of the rest). Within a group, tensors lie end to end in the order of the space; a group's tensors need not
be neighbours there. Up to that order A is block diagonal, so that E[A A^T] = I and adjoints are those of the parts.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection


class _Stretch(NamedTuple):
    """Rows of one tensor: ``start`` to ``stop`` of A, from row ``begin`` of group ``group``."""

    start: int
    stop: int
    group: int
    begin: int


@dataclass(frozen=True)
class DirectSum(Projection):
    """Projections side by side.

    Attributes:
        parts: the groups' projections; the columns of the first come first.
        sizes: elements of each tensor, in the order of the space.
        groups: the group of each tensor, from 0.
    """

    D: int = field(init=False, repr=False)
    d: int = field(init=False, repr=False)
    seed: int = field(init=False, repr=False)
    parts: tuple[Projection, ...]
    sizes: tuple[int, ...]
    groups: tuple[int, ...]

    family: ClassVar[str] = "direct-sum"

    def __post_init__(self) -> None:
        for name in ("parts", "sizes", "groups"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.parts:
            raise ProjectionError("a direct sum of nothing; give it parts")
        object.__setattr__(self, "D", sum(part.D for part in self.parts))
        object.__setattr__(self, "d", sum(part.d for part in self.parts))
        object.__setattr__(self, "seed", self.parts[0].seed)
        super().__post_init__()
        if any(isinstance(part, DirectSum) for part in self.parts):
            raise ProjectionError("a direct sum has no direct sum for a part; list all the parts in one")
        known = range(len(self.parts))
        if len(self.sizes) != len(self.groups) or any(group not in known for group in self.groups):
            raise ProjectionError(
                f"{len(self.groups)} groups, from {min(self.groups, default=0)} to {max(self.groups, default=0)}, for"
                f" {len(self.sizes)} tensors; each tensor is in one of the {len(self.parts)}"
            )
        for group, part in enumerate(self.parts):
            rows = sum(size for size, own in zip(self.sizes, self.groups, strict=True) if own == group)
            if rows != part.D:
                raise ProjectionError(f"group {group} has {rows:,} elements, and its projection {part.D:,} rows")

    @property
    @override
    def granule(self) -> int:
        return max(part.granule for part in self.parts)

    @override
    def child(self, *path: int) -> Self:
        return dataclasses.replace(self, parts=tuple(part.child(*path) for part in self.parts))

    @override
    def spec(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "parts": [part.spec() for part in self.parts],
            "sizes": list(self.sizes),
            "groups": list(self.groups),
        }

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        for at in self._stretches(start, start + g.numel()):
            self.parts[at.group]._project_(g[at.start - start : at.stop - start], at.begin, self._own(out, at.group))

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        y = torch.empty(stop - start, dtype=torch.float32, device=x.device)
        for at in self._stretches(start, stop):
            end = at.begin + at.stop - at.start
            y[at.start - start : at.stop - start] = self.parts[at.group]._expand(self._own(x, at.group), at.begin, end)
        return y

    @override
    def _kernel_project_(
        self, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Sequence[float] | None = None
    ) -> bool:
        if not all(piece.is_contiguous() for piece in pieces):
            return False
        for run in self._runs([pieces], start, scales):
            part, own = self.parts[run.group], self._own(out, run.group)
            if not part._kernel_project_(run.lists[0], run.begin, own, run.scales):
                for piece, begin, scale in run.each():
                    for low, high in part._chunks(begin, begin + piece.numel()):
                        g = piece[low - begin : high - begin].to(torch.float32, copy=True)
                        part._project_(g.mul_(scale), low, own)
        return True

    @override
    def _kernel_add_expanded_(
        self, pieces: Sequence[Tensor], start: int, x: Tensor, alpha: float, scales: Sequence[float] | None = None
    ) -> bool:
        if not all(piece.is_contiguous() for piece in pieces):
            return False
        for run in self._runs([pieces], start, scales):
            own = self._own(x, run.group)
            if not self.parts[run.group]._kernel_add_expanded_(run.lists[0], run.begin, own, alpha, run.scales):
                self._add_plainly_(run, own, alpha)
        return True

    @override
    def _kernel_expand_onto_(
        self,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        x: Tensor,
        scales: Sequence[float] | None = None,
    ) -> bool:
        if not all(piece.is_contiguous() for piece in (*pieces, *bases)):
            return False
        for run in self._runs([pieces, bases], 0, scales):
            own = self._own(x, run.group)
            # All rows are here, so that all tensors of a group are one run.
            if not self.parts[run.group]._kernel_expand_onto_(run.lists[0], run.lists[1], own, run.scales):
                for piece, base in zip(*run.lists, strict=True):
                    piece.copy_(base)
                if not self.parts[run.group]._kernel_add_expanded_(run.lists[0], run.begin, own, 1.0, run.scales):
                    self._add_plainly_(run, own, 1.0)
        return True

    def _add_plainly_(self, run: _Run, x: Tensor, alpha: float) -> None:
        part, scaled = self.parts[run.group], x if alpha == 1.0 else x * alpha
        for piece, begin, scale in run.each():
            for low, high in part._chunks(begin, begin + piece.numel()):
                piece[low - begin : high - begin].add_(part._expand(scaled, low, high).mul_(scale))

    def _own(self, vector: Tensor, group: int) -> Tensor:
        """A group's columns of a vector (d,)."""
        return vector[self._columns[group] : self._columns[group + 1]]

    @cached_property
    def _columns(self) -> list[int]:
        return [0, *accumulate(part.d for part in self.parts)]

    @cached_property
    def _borders(self) -> list[int]:
        return [0, *accumulate(self.sizes)]

    @cached_property
    def _begins(self) -> list[int]:
        """The first row of each tensor within its group."""
        filled = [0] * len(self.parts)
        begins = []
        for size, group in zip(self.sizes, self.groups, strict=True):
            begins.append(filled[group])
            filled[group] += size
        return begins

    def _stretches(self, start: int, stop: int) -> Iterator[_Stretch]:
        """Rows start to stop, tensor by tensor."""
        index = bisect_right(self._borders, start) - 1
        while start < stop:
            end = min(stop, self._borders[index + 1])
            if end > start:
                yield _Stretch(start, end, self.groups[index], self._begins[index] + start - self._borders[index])
            start, index = max(start, end), index + 1

    def _runs(self, lists: Sequence[Sequence[Tensor]], start: int, scales: Sequence[float] | None) -> Iterator[_Run]:
        """Contiguous pieces from row ``start`` on, by group, those end to end that are neighbours there."""
        open_: dict[int, _Run] = {}
        for index, pieces in enumerate(zip(*lists, strict=True)):
            scale = 1.0 if scales is None else scales[index]
            for at in self._stretches(start, start + pieces[0].numel()):
                run = open_.get(at.group)
                if run is None or run.end != at.begin:
                    if run is not None:
                        yield run
                    run = open_[at.group] = _Run(at.group, at.begin, at.begin, [[] for _ in lists], [])
                for piece, into in zip(pieces, run.lists, strict=True):
                    into.append(piece.view(-1)[at.start - start : at.stop - start])
                run.scales.append(scale)
                run.end += at.stop - at.start
            start += pieces[0].numel()
        yield from open_.values()


@dataclass
class _Run:
    """Pieces end to end in rows ``begin`` to ``end`` of a group."""

    group: int
    begin: int
    end: int
    lists: list[list[Tensor]]
    scales: list[float]

    def each(self) -> Iterator[tuple[Tensor, int, float]]:
        """Each piece of the first list, with its first row and its scale."""
        begin = self.begin
        for piece, scale in zip(self.lists[0], self.scales, strict=True):
            yield piece, begin, scale
            begin += piece.numel()
