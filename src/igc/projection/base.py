"""The projection: a seeded random linear map A of shape (D, d) with E[A A^T] = I, never stored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection.philox import MAX_SEED, child_seed

MAX_DIM: Final = 2**31
MAX_ROWS: Final = 2**48
# Rows handled at once: large enough to hide PyTorch's cost per call, small enough to stay near the cache.
CHUNK_ROWS: Final = 2**20


@dataclass(frozen=True)
class Projection(ABC):
    """A frozen value that names a matrix A of shape (D, d); equal values are the same matrix on every machine.

    Families implement the two primitives `_project_` and `_add_expanded_` on a slice of rows; all else is written here
    once. Everything accumulates in float32.

    Attributes:
        D: rows, the number of trainable parameters.
        d: columns, the intrinsic dimension, 1 <= d <= D.
        seed: in [0, 2^64).
    """

    D: int
    d: int
    seed: int

    family: ClassVar[str]
    compresses: ClassVar[bool] = True  # whether d may be at most D

    def __post_init__(self) -> None:
        if not 1 <= self.D <= MAX_ROWS:
            raise ProjectionError(f"D = {self.D:,} rows; a projection has 1 to 2^48")
        if not 1 <= self.d <= MAX_DIM:
            raise ProjectionError(f"d = {self.d:,}; the intrinsic dimension is 1 to 2^31")
        if self.d > self.D and self.compresses:
            raise ProjectionError(
                f"d = {self.d:,} exceeds D = {self.D:,}, the number of trainable parameters; choose a smaller dim"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ProjectionError(f"seed = {self.seed}; a seed is 0 to 2^64 - 1")

    @property
    @abstractmethod
    def granule(self) -> int:
        """Rows that are computed together; slices that start and stop at its multiples cost nothing extra."""

    @abstractmethod
    def _project_(self, g: Tensor, start: int, out: Tensor) -> None:
        """``out += A[start:start + n].T @ g``: g (n,) float32 contiguous, which it may overwrite; out (d,) float32."""

    @abstractmethod
    def _expand(self, x: Tensor, start: int, stop: int) -> Tensor:
        """``A[start:stop] @ x``: x (d,) float32; a new float32 tensor (stop - start,)."""

    # Pieces may have scales, one each: the factors of their rows of A.

    def _kernel_project_(
        self,
        pieces: Sequence[Tensor],  # noqa: ARG002
        start: int,  # noqa: ARG002
        out: Tensor,  # noqa: ARG002
        scales: Sequence[float] | None = None,  # noqa: ARG002
    ) -> bool:
        """`_project_` of contiguous pieces that lie end to end, at once; False: no kernel of this family takes them."""
        return False

    def _kernel_add_expanded_(
        self,
        pieces: Sequence[Tensor],  # noqa: ARG002
        start: int,  # noqa: ARG002
        x: Tensor,  # noqa: ARG002
        alpha: float,  # noqa: ARG002
        scales: Sequence[float] | None = None,  # noqa: ARG002
    ) -> bool:
        """``pieces += alpha A x`` at once; False: no kernel of this family takes them."""
        return False

    def _kernel_expand_onto_(
        self,
        pieces: Sequence[Tensor],  # noqa: ARG002
        bases: Sequence[Tensor],  # noqa: ARG002
        x: Tensor,  # noqa: ARG002
        scales: Sequence[float] | None = None,  # noqa: ARG002
    ) -> bool:
        """``pieces = bases + A x``, all rows at once; False: no kernel of this family takes them."""
        return False

    def project_(self, g: Tensor, start: int, out: Tensor) -> Tensor:
        """Add ``A[start:start + n].T @ g`` to ``out``.

        Args:
            g: (n,), float32, bfloat16 or float16, on the device of ``out``.
            start: first row of the slice.
            out: (d,), float32, contiguous; changed in place and returned.

        Raises:
            ProjectionError: sizes, dtypes or devices do not fit.
        """
        return self.project_run_([g], start, out)

    def project_run_(self, pieces: Sequence[Tensor], start: int, out: Tensor) -> Tensor:
        """`project_` of vectors that lie end to end, from row ``start`` on; blocks that two of them share are done once.

        Raises:
            ProjectionError: sizes, dtypes or devices do not fit.
        """
        self._check_low(out, "out")
        stop = start
        for piece in pieces:
            self._check_slice(piece, stop, stop + piece.numel(), "g")
            _check_device(piece, out)
            stop += piece.numel()
        flats = [piece.detach() for piece in pieces]
        if self._kernel_project_(flats, start, out):
            return out
        for flat in flats:
            for begin, end in self._chunks(start, start + flat.numel()):
                self._project_(flat[begin - start : end - start].to(torch.float32, copy=True), begin, out)
            start += flat.numel()
        return out

    def project(self, g: Tensor, start: int = 0) -> Tensor:
        """``A[start:start + n].T @ g`` as a new float32 tensor (d,); see `project_`."""
        return self.project_(g, start, torch.zeros(self.d, dtype=torch.float32, device=g.device))

    def add_expanded_(self, y: Tensor, x: Tensor, start: int = 0, alpha: float = 1.0) -> Tensor:
        """Add ``alpha * A[start:start + n] @ x`` to ``y``; the sum is formed in float32, then rounded to y's dtype.

        Args:
            y: (n,), float32, bfloat16 or float16; changed in place and returned.
            x: (d,), float32, on the device of ``y``.
            start: first row of the slice.
            alpha: a factor.

        Raises:
            ProjectionError: sizes, dtypes or devices do not fit.
        """
        self._check_slice(y, start, start + y.numel(), "y")
        self._check_low(x, "x")
        _check_device(y, x)
        if self._kernel_add_expanded_([y.detach()], start, x, alpha):
            return y
        scaled = x if alpha == 1.0 else x * alpha
        for begin, end in self._chunks(start, start + y.numel()):
            piece = y[begin - start : end - start]
            piece.add_(self._expand(scaled, begin, end))  # PyTorch adds mixed dtypes in float32 and rounds once
        return y

    def expand(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """``A[start:stop] @ x`` as a new float32 tensor (stop - start,); all rows by default.

        Raises:
            ProjectionError: sizes, dtypes or devices do not fit.
        """
        stop = self.D if stop is None else stop
        if not 0 <= start <= stop <= self.D:
            raise ProjectionError(f"rows {start:,} to {stop:,} are not within the {self.D:,} rows of the projection")
        self._check_low(x, "x")
        y = torch.zeros(stop - start, dtype=torch.float32, device=x.device)
        if self._kernel_add_expanded_([y], start, x, 1.0):
            return y
        for begin, end in self._chunks(start, stop):
            y[begin - start : end - start] = self._expand(x, begin, end)
        return y

    def gram(self, x: Tensor) -> Tensor:
        """``A^T A x`` as a new float32 tensor (d,), slice by slice: the gradient of ``||A x||^2 / 2``.

        Raises:
            ProjectionError: see `project_`.
        """
        self._check_low(x, "x")
        out = torch.zeros(self.d, dtype=torch.float32, device=x.device)
        for start, stop in self._chunks(0, self.D):
            self.project_(self.expand(x, start, stop), start, out)
        return out

    def child(self, *path: int) -> Projection:
        """The same family and sizes under a seed derived from a path such as (epoch, subspace).

        The path of zeros is the projection itself, so that the first subspace of the first epoch of every method is the
        static method's.
        """
        if not any(path):
            return self
        return dataclasses.replace(self, seed=child_seed(self.seed, *path))

    def spec(self) -> dict[str, Any]:
        """The value as JSON-ready fields: all that another party needs to rebuild the matrix."""
        return {"family": self.family, **dataclasses.asdict(self)}

    @property
    def digest(self) -> bytes:
        """Eight bytes that name the spec on the wire."""
        listing = json.dumps(self.spec(), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(listing.encode(), digest_size=8, person=b"igc-projection").digest()

    def _chunks(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Cut rows into pieces of about CHUNK_ROWS that end at multiples of the granule."""
        step = max(CHUNK_ROWS // self.granule, 1) * self.granule
        cuts = [start, *range((start // step + 1) * step, stop, step), stop]
        return [(a, b) for a, b in pairwise(cuts) if a < b]

    def _check_slice(self, tensor: Tensor, start: int, stop: int, name: str) -> None:
        if tensor.dim() != 1:
            raise ProjectionError(f"{name} has shape {tuple(tensor.shape)}; a vector is needed, flatten it first")
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ProjectionError(f"{name} is {tensor.dtype}; float32, bfloat16 or float16 is needed")
        if not 0 <= start <= stop <= self.D:
            raise ProjectionError(
                f"{name} covers rows {start:,} to {stop:,}, not within the {self.D:,} rows of the projection"
            )

    def _check_low(self, tensor: Tensor, name: str) -> None:
        if tuple(tensor.shape) != (self.d,) or tensor.dtype != torch.float32:
            raise ProjectionError(
                f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; ({self.d},) and torch.float32 are needed"
            )


def _check_device(high: Tensor, low: Tensor) -> None:
    if high.device != low.device:
        raise ProjectionError(f"tensors on {high.device} and {low.device}; move them to one device first")


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least ``n`` (n >= 1)."""
    return 1 << (n - 1).bit_length()


def to_dense(projection: Projection) -> Tensor:
    """A as a float32 matrix (D, d), column by column; for tests and small problems."""
    basis = torch.eye(projection.d)
    return torch.stack([projection.expand(column) for column in basis], dim=1)


def check_adjoint(projection: Projection, x: Tensor, g: Tensor, tolerance: float = 1e-5) -> None:
    """Check <A x, g> = <x, A^T g>, relative to |A x| |g|.

    Raises:
        ProjectionError: the two differ by more than ``tolerance``: `expand` and `project` are not each other's adjoint.
    """
    y = projection.expand(x).double()
    left = torch.dot(y, g.double())
    right = torch.dot(x.double(), projection.project(g).double())
    scale = y.norm() * g.double().norm() + torch.finfo(torch.float32).tiny
    error = ((left - right).abs() / scale).item()
    if not error <= tolerance:
        raise ProjectionError(
            f"{projection} is not its own adjoint: <Ax, g> and <x, A'g> differ by {error:.2e} of |Ax||g|"
        )
