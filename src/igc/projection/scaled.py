"""Scaled: another projection whose rows are weighted, tensor by tensor.

A = diag(w) A', with w constant on each tensor and of mean square 1 over the D coordinates: E[A A^T] = diag(w^2), whose
trace is still D. A step of gradient descent on sigma moves each parameter by w^2 times what it would: w says where in the
model the subspace has its length (METHOD.md, sections 3 and 5).
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection

_TOLERANCE: Final = 1e-4  # of the mean square, which many float32 weights miss by less than one of them does


@dataclass(frozen=True)
class Scaled(Projection):
    """diag(w) A'.

    Attributes:
        inner: A', of any family but this one.
        sizes: elements of each tensor, in the order of the space; they sum to D.
        weights: w of each, positive, as float32 holds it; see `of`.
    """

    D: int = field(init=False, repr=False)
    d: int = field(init=False, repr=False)
    seed: int = field(init=False, repr=False)
    inner: Projection
    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    family: ClassVar[str] = "scaled"

    def __post_init__(self) -> None:
        for name in ("D", "d", "seed"):
            object.__setattr__(self, name, getattr(self.inner, name))
        for name in ("sizes", "weights"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.inner, Scaled):
            raise ProjectionError("a scaled projection cannot be scaled again; multiply the weights")
        if len(self.sizes) != len(self.weights) or sum(self.sizes) != self.D or min(self.sizes, default=0) < 0:
            raise ProjectionError(
                f"{len(self.weights)} weights for {len(self.sizes)} tensors with {sum(self.sizes):,} elements do not fit"
                f" the {self.D:,} rows of the projection"
            )
        # In float32, too, or a weight that is sent and comes back would be another.
        wrong = [w for w in self.weights if not (0 < w < math.inf and _float32([w])[0] == w)]
        if wrong:
            raise ProjectionError(f"weight {wrong[0]}; the weight of a tensor is a positive float32")
        square = _mean_square(self.sizes, self.weights)
        if abs(square - 1) > _TOLERANCE:
            raise ProjectionError(
                f"weights have a mean square of {square:.6g} over the rows; 1 is needed, see Scaled.of"
            )

    @classmethod
    def of(cls, inner: Projection, sizes: Sequence[int], raw: Sequence[float], floor: float = 0.0) -> Self:
        """With weights in the proportions of ``raw``.

        Args:
            inner: A'.
            sizes: elements of each tensor.
            raw: a number for each tensor, not negative; where all are zero, all weights are 1.
            floor: no weight is less than about this (before weights are brought to a mean square of 1 once more).

        Raises:
            ProjectionError: a number is negative or not finite, or a weight comes out as zero.
        """
        return cls(inner, tuple(sizes), normalised(sizes, raw, floor))

    @property
    @override
    def granule(self) -> int:
        return self.inner.granule

    @override
    def child(self, *path: int) -> Self:
        return dataclasses.replace(self, inner=self.inner.child(*path))

    @override
    def spec(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "inner": self.inner.spec(),
            "sizes": list(self.sizes),
            "weights": list(self.weights),
        }

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        for begin, end, weight in self._parts(start, start + g.numel()):
            g[begin - start : end - start].mul_(weight)
        self.inner._project_(g, start, out)

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        y = self.inner._expand(x, start, stop)
        for begin, end, weight in self._parts(start, stop):
            y[begin - start : end - start].mul_(weight)
        return y

    @override
    def _kernel_project_(
        self, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Sequence[float] | None = None
    ) -> bool:
        cut = self._cut([pieces], start, scales)
        return cut is not None and self.inner._kernel_project_(cut[0][0], start, out, cut[1])

    @override
    def _kernel_add_expanded_(
        self, pieces: Sequence[Tensor], start: int, x: Tensor, alpha: float, scales: Sequence[float] | None = None
    ) -> bool:
        cut = self._cut([pieces], start, scales)
        return cut is not None and self.inner._kernel_add_expanded_(cut[0][0], start, x, alpha, cut[1])

    @override
    def _kernel_expand_onto_(
        self,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        x: Tensor,
        scales: Sequence[float] | None = None,
    ) -> bool:
        cut = self._cut([pieces, bases], 0, scales)
        return cut is not None and self.inner._kernel_expand_onto_(cut[0][0], cut[0][1], x, cut[1])

    @cached_property
    def _borders(self) -> list[int]:
        return list(accumulate(self.sizes, initial=0))

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, float]]:
        """Rows start to stop, cut where tensors end: (first row, one past the last, weight)."""
        index = bisect_right(self._borders, start) - 1
        while start < stop:
            end = min(stop, self._borders[index + 1])
            if end > start:
                yield start, end, self.weights[index]
            start, index = max(start, end), index + 1

    def _cut(
        self, lists: Sequence[Sequence[Tensor]], start: int, scales: Sequence[float] | None
    ) -> tuple[list[list[Tensor]], list[float]] | None:
        """Lists of pieces of the same sizes, cut where tensors end, and the scale of each; None: they cannot be cut."""
        cut: list[list[Tensor]] = [[] for _ in lists]
        found: list[float] = []
        for index, pieces in enumerate(zip(*lists, strict=True)):
            size = pieces[0].numel()
            outer = 1.0 if scales is None else scales[index]
            parts = list(self._parts(start, start + size))
            if len(parts) > 1 and not all(piece.is_contiguous() for piece in pieces):
                return None
            for begin, end, weight in parts:
                for piece, into in zip(pieces, cut, strict=True):
                    into.append(piece if len(parts) == 1 else piece.view(-1)[begin - start : end - start])
                found.append(weight * outer)
            start += size
        return cut, found


def normalised(sizes: Sequence[int], raw: Sequence[float], floor: float = 0.0) -> tuple[float, ...]:
    """Weights in the proportions of ``raw``, of mean square 1 over all elements, as float32 holds them; see `Scaled.of`.

    Raises:
        ProjectionError: a number is negative or not finite, or a weight comes out as zero.
    """
    if wrong := [number for number in raw if not 0 <= number < math.inf]:
        raise ProjectionError(f"{wrong[0]} cannot be the proportion of a weight; give numbers of at least 0")
    largest = max(raw, default=0.0)
    if largest == 0:
        return (1.0,) * len(raw)
    shares = [number / largest for number in raw]  # so that no square overflows
    root = math.sqrt(_mean_square(sizes, shares))
    if root == 0:  # only empty tensors count
        return (1.0,) * len(raw)
    shares = [max(share / root, floor) for share in shares]
    root = math.sqrt(_mean_square(sizes, shares))
    return _float32([share / root for share in shares])


def powers(sizes: Sequence[int], squares: Sequence[float], exponent: float, floor: float) -> list[float]:
    """The root mean square of each tensor to a power, as the proportion of its weight; see `Scaled.of`.

    A tensor that is all zero tells nothing: it gets the root mean square of the others' proportions. So it is with biases
    of theta_0 and with LoRA's B, whatever their size will be, and with the gradient of LoRA's A while B is zero. The floor,
    or with an exponent below zero the greatest weight, would freeze one or let it take all.

    Args:
        sizes: elements of each tensor.
        squares: mean square of each.
        exponent: of the root mean squares.
        floor: of a negative exponent, the least root mean square as a share of all elements'; what is nearly zero would
            have all the length.
    """
    mean = math.fsum(size * square for size, square in zip(sizes, squares, strict=True)) / sum(sizes)
    least = floor**2 * mean if exponent < 0 else 0.0
    found = [max(square, least) ** (exponent / 2) if square else 0.0 for square in squares]
    telling = sum(size for size, square in zip(sizes, squares, strict=True) if square)
    if not telling:
        return [1.0] * len(squares)
    typical = math.sqrt(math.fsum(size * number**2 for size, number in zip(sizes, found, strict=True)) / telling)
    return [number if square else typical for number, square in zip(found, squares, strict=True)]


def _mean_square(sizes: Sequence[int], weights: Sequence[float]) -> float:
    return math.fsum(size * w * w for size, w in zip(sizes, weights, strict=True)) / sum(sizes)


def _float32(numbers: Sequence[float]) -> tuple[float, ...]:
    return tuple(torch.tensor(numbers, dtype=torch.float64).float().tolist())
