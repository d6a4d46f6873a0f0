"""What computes the projections: one contract, chosen at run time.

`reference` is the transform in plain PyTorch, on any device; the families are written on it. A `Kernel` does the same work
on a whole model at once, faster: `native` on the CPU, `triton_gpu` on a GPU. The tests hold kernels to the reference, and
no caller knows which one it got. The environment variable ``IGC_KERNEL`` names one to use throughout.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final, Protocol

import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection.kernels import native, reference

__all__ = ["Kernel", "choose", "flip_", "fwht", "kernel_for", "names", "native_for", "using", "words"]


class Kernel(Protocol):
    """The blocked Hadamard matrix of some d, block n and seed (docs/projections.md), on vectors that lie in pieces.

    Pieces are contiguous tensors end to end, rows ``start`` and following, float32, bfloat16 or float16, all on one device.
    Sums are formed in float32, in an order that does not depend on the number of threads. The rows of each piece may have a
    scale, a positive float32: those rows of A are then multiplied by it.
    """

    name: str

    def takes(self, pieces: Sequence[Tensor], n: int) -> bool:
        """Whether this kernel can work on these tensors, in blocks of n."""

    def project_(
        self,
        d: int,
        n: int,
        seed: int,
        pieces: Sequence[Tensor],
        start: int,
        out: Tensor,
        scales: Sequence[float] | None = None,
    ) -> None:
        """``out += A[rows].T @ g``; out (d,) float32."""

    def add_expanded_(
        self,
        d: int,
        n: int,
        seed: int,
        pieces: Sequence[Tensor],
        start: int,
        x: Tensor,
        alpha: float,
        scales: Sequence[float] | None = None,
    ) -> None:
        """``y += alpha * A[rows] @ x``; x (d,) float32, contiguous."""

    def expand_onto_(
        self,
        d: int,
        n: int,
        seed: int,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        start: int,
        x: Tensor,
        alpha: float,
        scales: Sequence[float] | None = None,
    ) -> None:
        """``y = base + alpha A[rows] x``, bit for bit what a copy and `add_expanded_` give; bases like the pieces."""


_REFERENCE: Final = "reference"
_TRITON: Final = "triton"


def kernel_for(pieces: Sequence[Tensor], n: int) -> Kernel | None:
    """The kernel for these tensors, in blocks of n; None: the reference."""
    if not pieces or _chosen == _REFERENCE:
        return None
    on_gpu = _chosen == _TRITON or (_chosen is None and pieces[0].is_cuda)
    kernel = _triton() if on_gpu else native.load(_chosen)
    return kernel if kernel is not None and kernel.takes(pieces, n) else None


def native_for(pieces: Sequence[Tensor]) -> native.Native | None:
    """The native kernel, if it is what takes these tensors."""
    kernel = kernel_for(pieces, 1)
    return kernel if isinstance(kernel, native.Native) else None


def fwht(x: Tensor) -> Tensor:
    """Unnormalised Walsh-Hadamard transform of the last axis (..., n), float32; may overwrite ``x``."""
    kernel = kernel_for([x], x.shape[-1])
    return kernel.fwht_(x) if isinstance(kernel, native.Native) and x.dtype == torch.float32 else reference.fwht(x)


def flip_(x: Tensor, seed: int, stream: int, start: int) -> bool:
    """Flip signs in place, as `igc.projection.signs.flip_` says; False: nothing was done, no kernel takes this vector."""
    kernel = native_for([x])
    if kernel is None or x.dtype != torch.float32 or x.dim() != 1:
        return False
    kernel.flip_(x, seed, stream, start)
    return True


def words(seed: int, stream: int, first: int, count: int) -> Tensor | None:
    """Random words on the CPU, as `igc.projection.philox.blocks` gives them; None: there is no kernel that does."""
    kernel = native.load(_chosen) if _chosen in (None, *native.names()) else None
    return None if kernel is None else kernel.words(seed, stream, first, count)


def names() -> list[str]:
    """What `choose` takes on this machine: builds of the native kernel, the fastest first, then the others."""
    return [*native.names(), *([_TRITON] if _triton() else []), _REFERENCE]


def choose(name: str | None) -> None:
    """Compute with another kernel from now on; None: with the fastest that takes the tensors at hand.

    Raises:
        ProjectionError: this machine has no kernel of that name.
    """
    global _chosen  # noqa: PLW0603 - the one switch of the process, for tests and benchmarks
    if name is not None and name not in names():
        raise ProjectionError(f"no kernel '{name}' here; there are {', '.join(names())}")
    _chosen = name


@cache
def _triton() -> Kernel | None:
    # Comes with PyTorch's CUDA builds; slow to import, and of no use elsewhere but in its interpreter.
    wanted = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    if not wanted or importlib.util.find_spec("triton") is None:
        return None
    from igc.projection.kernels import triton_gpu  # noqa: PLC0415

    return triton_gpu.load()


_chosen: str | None = None
if _wanted := os.environ.get("IGC_KERNEL"):
    choose(_wanted)


@contextmanager
def using(name: str | None) -> Iterator[None]:
    """Compute with another kernel inside a ``with`` block."""
    before = _chosen
    choose(name)
    try:
        yield
    finally:
        choose(before)
