"""The native CPU kernel: a C++ library (src/native) behind ctypes, built for AVX-512, AVX2 and any other processor.

The environment variable ``IGC_NATIVE_LIBRARY`` names another build of it to load, for instance one with sanitizers.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

ABI: Final = 8
_BUILDS: Final = ("avx512", "avx2", "portable")
Scales = Sequence[float] | None
_DTYPES: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Piece(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("base", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


class Native:
    """One build of the library."""

    def __init__(self, library: ctypes.CDLL, build: int) -> None:
        self._library = library
        self._build = build
        self.name: str = library.igc_name(build).decode()

    def takes(self, pieces: Sequence[Tensor], n: int) -> bool:  # noqa: ARG002
        """Contiguous CPU tensors of the three dtypes."""
        return all(p.device.type == "cpu" and p.dtype in _DTYPES and p.is_contiguous() for p in pieces)

    def project_(
        self, d: int, n: int, seed: int, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Scales = None
    ) -> None:
        """See `Kernel.project_`."""
        self._project_(self._library.igc_project, d, n, seed, pieces, start, out, scales)

    def add_expanded_(
        self,
        d: int,
        n: int,
        seed: int,
        pieces: Sequence[Tensor],
        start: int,
        x: Tensor,
        alpha: float,
        scales: Scales = None,
    ) -> None:
        """See `Kernel.add_expanded_`."""
        self.expand_onto_(d, n, seed, pieces, pieces, start, x, alpha, scales)

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
        scales: Scales = None,
    ) -> None:
        """See `Kernel.expand_onto_`."""
        self._expand_onto_(self._library.igc_add_expanded, d, n, seed, pieces, bases, start, x, alpha, scales)

    def partition_project_(
        self, d: int, seed: int, pieces: Sequence[Tensor], start: int, out: Tensor, scales: Scales = None
    ) -> None:
        """`Kernel.project_`, of the partition into d buckets."""
        self._project_(self._library.igc_partition_project, d, 0, seed, pieces, start, out, scales)

    def partition_expand_onto_(
        self,
        d: int,
        seed: int,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        start: int,
        x: Tensor,
        alpha: float,
        scales: Scales = None,
    ) -> None:
        """`Kernel.expand_onto_`, of the partition into d buckets."""
        self._expand_onto_(self._library.igc_partition_add_expanded, d, 0, seed, pieces, bases, start, x, alpha, scales)

    def fwht_(self, x: Tensor) -> Tensor:
        """Unnormalised Walsh-Hadamard transform of the last axis, in place; x contiguous float32, on the CPU."""
        n = x.shape[-1]
        _check(self._library.igc_fwht(self._build, x.data_ptr(), n, x.numel() // n, torch.get_num_threads()))
        return x

    def flip_(self, x: Tensor, seed: int, stream: int, start: int) -> Tensor:
        """Each element of a contiguous float32 vector on the CPU times the sign at its index of a stream, in place."""
        _check(
            self._library.igc_flip(self._build, x.data_ptr(), x.numel(), seed, stream, start, torch.get_num_threads())
        )
        return x

    def words(self, seed: int, stream: int, first: int, count: int) -> Tensor:
        """`igc.projection.philox.blocks`, on the CPU and in lane 0."""
        out = torch.empty(count, 4, dtype=torch.int64)
        _check(
            self._library.igc_words(self._build, out.data_ptr(), count, seed, stream, first, torch.get_num_threads())
        )
        return out

    def _project_(
        self,
        function: Any,
        d: int,
        n: int,
        seed: int,
        pieces: Sequence[Tensor],
        start: int,
        out: Tensor,
        scales: Scales,
    ) -> None:
        listed, threads = _array(pieces, pieces, scales), torch.get_num_threads()
        _check(function(self._build, d, n, seed, listed, len(pieces), start, out.data_ptr(), threads))

    def _expand_onto_(
        self,
        function: Any,
        d: int,
        n: int,
        seed: int,
        pieces: Sequence[Tensor],
        bases: Sequence[Tensor],
        start: int,
        x: Tensor,
        alpha: float,
        scales: Scales,
    ) -> None:
        listed, threads = _array(pieces, bases, scales), torch.get_num_threads()
        _check(function(self._build, d, n, seed, listed, len(pieces), start, x.data_ptr(), alpha, threads))


@cache
def load(name: str | None = None) -> Native | None:
    """The fastest build that runs here, or a named one; None where there is none."""
    library = _library()
    build = library.igc_find(name.encode() if name else None) if library is not None else None
    return Native(library, build) if library is not None and build else None


def names() -> list[str]:
    """The builds that run on this machine, the fastest first."""
    return [name for name in _BUILDS if load(name) is not None]


@cache
def _library() -> ctypes.CDLL | None:
    path = os.environ.get("IGC_NATIVE_LIBRARY") or _installed()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(path)
    except OSError:
        return None
    if library.igc_abi() != ABI:  # left over from another version of igc
        return None
    i64, pointer, integer = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    shape: list[Any] = [pointer, i64, i64, ctypes.c_uint64, ctypes.POINTER(_Piece), i64, i64, pointer]
    library.igc_find.argtypes, library.igc_find.restype = [ctypes.c_char_p], pointer
    library.igc_name.argtypes, library.igc_name.restype = [pointer], ctypes.c_char_p
    library.igc_fwht.argtypes = [pointer, pointer, i64, i64, integer]
    library.igc_project.argtypes = [*shape, integer]
    library.igc_add_expanded.argtypes = [*shape, ctypes.c_float, integer]
    library.igc_partition_project.argtypes = library.igc_project.argtypes
    library.igc_partition_add_expanded.argtypes = library.igc_add_expanded.argtypes
    library.igc_flip.argtypes = [pointer, pointer, i64, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64, integer]
    library.igc_words.argtypes = library.igc_flip.argtypes
    library.igc_use_team.argtypes, library.igc_use_team.restype = [pointer], None
    library.igc_use_team(_team())
    return library


_forked = False


def _note_fork() -> None:
    global _forked  # noqa: PLW0603 - what only this process knows of itself
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _team() -> int | None:
    """The address of the function by which PyTorch's OpenMP runs work on its threads; None where it has no such.

    Nor in a process forked from one that had imported this module: the threads stayed behind.
    """
    if _forked or not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return None
    # PyTorch loads its OpenMP for all to see; where another implementation is used, it has this entry of GCC's or none.
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value


def _installed() -> str | None:
    # The build backend puts the library where an extension module would be, in editable installs too.
    spec = importlib.util.find_spec("igc.projection.kernels._native")
    return None if spec is None else spec.origin


def _array(pieces: Sequence[Tensor], bases: Sequence[Tensor], scales: Scales) -> ctypes.Array[_Piece]:
    rows = zip(pieces, bases, scales or [1.0] * len(pieces), strict=True)
    return (_Piece * len(pieces))(
        *(_Piece(p.data_ptr(), base.data_ptr(), p.numel(), _DTYPES[p.dtype], scale) for p, base, scale in rows)
    )


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("the native kernel could not get the memory, or a thread, that it asked for")
