"""Learned: a few directions of another projection's subspace that somebody chose, such as those in which gradients lay.

A = sqrt(d_0 / k) A_0 U, with A_0 (D, d_0) seeded and U (d_0, k) of orthonormal columns, or nearly so. U is the only matrix
here that is not drawn from a seed: whoever needs A must be sent it. The factor makes columns of A as long as those of a
random A of k columns, so that E[A A^T] = I if U is uniform, and trace(E[A A^T]) = D whatever U is, since E[A_0^T A_0] is
(D / d_0) I.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.projection.base import Projection
from igc.records import tensor_digest

_TOLERANCE: Final = 0.01  # of U^T U = I: directions may have been rounded to 16 bits, or 8, and are what they are


@dataclass(frozen=True)
class Learned(Projection):
    """Directions of the subspace of another projection.

    Its spec names U by a hash, so that no spec rebuilds it: what is kept or sent is U beside the base.

    Attributes:
        base: A_0.
        directions: U, float32 (d_0, k) on the CPU, its columns orthonormal to a hundredth; never to be changed.
        fingerprint: of the bits of U, for which it stands in comparisons and in the spec.
    """

    D: int = field(init=False, repr=False)
    d: int = field(init=False, repr=False)
    seed: int = field(init=False, repr=False)
    base: Projection
    directions: Tensor = field(compare=False, repr=False)
    fingerprint: str = field(init=False)
    _placed: dict[torch.device, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    family: ClassVar[str] = "learned"

    def __post_init__(self) -> None:
        U = self.directions
        if U.dim() != 2 or U.shape[0] != self.base.d or not 1 <= U.shape[1] <= U.shape[0] or U.dtype != torch.float32:
            raise ProjectionError(
                f"directions have shape {tuple(U.shape)} and dtype {U.dtype}; float32 with {self.base.d:,} rows and no"
                " more columns is needed"
            )
        error = (U.T @ U - torch.eye(U.shape[1])).abs().max().item()
        if not error <= _TOLERANCE:  # NaN, too
            raise ProjectionError(f"directions are not orthonormal: U^T U is off I by {error:.2g}")
        object.__setattr__(self, "D", self.base.D)
        object.__setattr__(self, "d", U.shape[1])
        object.__setattr__(self, "seed", self.base.seed)
        object.__setattr__(self, "fingerprint", tensor_digest(U))
        super().__post_init__()

    @property
    @override
    def granule(self) -> int:
        return self.base.granule

    @override
    def child(self, *path: int) -> Self:
        """Itself: what was learned is not drawn anew."""
        return self

    @override
    def spec(self) -> dict[str, Any]:
        return {"family": self.family, "base": self.base.spec(), "directions": self.fingerprint}

    def lifted(self, x: Tensor) -> Tensor:
        """The y (d_0,) with A x = A_0 y: float32, on the device of x (k,)."""
        # At the start of a cache line: BLAS adds up in another order elsewhere.
        return torch.mv(self._at(x.device), x.clone()).mul_(self._factor)

    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        wide = torch.zeros(self.base.d, dtype=torch.float32, device=out.device)
        self.base._project_(g, start, wide)
        self._lower_(wide, out)

    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        return self.base._expand(self.lifted(x), start, stop)

    @override
    def _kernel_project_(
        self, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Sequence[float] | None = None
    ) -> bool:
        wide = torch.zeros(self.base.d, dtype=torch.float32, device=out.device)
        taken = self.base._kernel_project_(pieces, start, wide, scales)
        if taken:
            self._lower_(wide, out)
        return taken

    @override
    def _kernel_add_expanded_(
        self, pieces: Sequence[Tensor], start: int, x: Tensor, alpha: float, scales: Sequence[float] | None = None
    ) -> bool:
        return self.base._kernel_add_expanded_(pieces, start, self.lifted(x), alpha, scales)

    @override
    def _kernel_expand_onto_(
        self,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        x: Tensor,
        scales: Sequence[float] | None = None,
    ) -> bool:
        return self.base._kernel_expand_onto_(pieces, bases, self.lifted(x), scales)

    @property
    def _factor(self) -> float:
        return math.sqrt(self.base.d / self.d)

    def _lower_(self, wide: Tensor, out: Tensor) -> None:
        out.add_(torch.mv(self._at(out.device).T, wide), alpha=self._factor)

    def _at(self, device: torch.device) -> Tensor:
        if device not in self._placed:
            self._placed[device] = self.directions.to(device)
        return self._placed[device]


def leading_directions(sketches: Tensor, k: int) -> Tensor:
    """The k directions that hold most of some vectors: their leading right singular vectors.

    Computed in binary64. Signs, which are arbitrary, are such that the largest entry of each direction is positive, the
    first of equals.

    Args:
        sketches: float32 (n, d_0), n >= k, d_0 >= k; rows may be zero, or few of them independent.
        k: how many.

    Returns:
        U, float32 (d_0, k), its columns orthonormal, the direction that holds most first.
    """
    _, _, rows = torch.linalg.svd(sketches.double(), full_matrices=False)
    rows = rows[:k]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    found: Tensor = rows * torch.where(largest < 0, -1.0, 1.0)
    return found.T.float().contiguous()
