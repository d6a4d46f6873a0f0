"""What computes the Hadamard families: one contract, chosen at run time.

`reference` is the transform in plain PyTorch, on any device; the families are written on it. A `Kernel` does the same work
on a whole model at once, faster: `native` on the CPU. Kernels are held to the reference by tests/projection/test_kernels.py
and no caller knows which one it got.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from igc.projection.kernels import native
from igc.projection.kernels.reference import fwht

__all__ = ["Kernel", "choose", "fwht", "kernel_for", "names", "using"]


class Kernel(Protocol):
    """The blocked Hadamard matrix of some d, block n and seed (docs/projections.md), on vectors that lie in pieces.

    Pieces are contiguous tensors end to end, rows ``start`` and following, float32, bfloat16 or float16, all on one device.
    Sums are formed in float32, in an order that does not depend on the number of threads.
    """

    name: str

    def takes(self, pieces: Sequence[Tensor]) -> bool:
        """Whether this kernel can work on these tensors."""

    def project_(self, d: int, n: int, seed: int, pieces: Sequence[Tensor], start: int, out: Tensor) -> None:
        """``out += A[rows].T @ g``; out (d,) float32."""

    def add_expanded_(
        self, d: int, n: int, seed: int, pieces: Sequence[Tensor], start: int, x: Tensor, alpha: float
    ) -> None:
        """``y += alpha * A[rows] @ x``; x (d,) float32, contiguous."""


_chosen: Kernel | None = native.load()


def kernel_for(pieces: Sequence[Tensor]) -> Kernel | None:
    """The kernel for these tensors; None: the reference."""
    return _chosen if _chosen is not None and _chosen.takes(pieces) else None


def names() -> list[str]:
    """What `choose` takes on this machine, the fastest first."""
    return [*native.names(), "reference"]


def choose(name: str) -> None:
    """Compute with another kernel from now on.

    Raises:
        ValueError: this machine has no kernel of that name.
    """
    global _chosen  # noqa: PLW0603 - the one switch of the process, for tests and benchmarks
    if name not in names():
        raise ValueError(f"no kernel '{name}' here; there are {', '.join(names())}")
    _chosen = None if name == "reference" else native.load(name)


@contextmanager
def using(name: str) -> Iterator[None]:
    """Compute with another kernel inside a ``with`` block."""
    before = "reference" if _chosen is None else _chosen.name
    choose(name)
    try:
        yield
    finally:
        choose(before)
