"""The native CPU kernel: a C++ library (src/native) behind ctypes, built for AVX-512, AVX2 and any other processor."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

ABI: Final = 1
_BUILDS: Final = ("avx512", "avx2", "portable")
_DTYPES: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class _Piece(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_int64), ("dtype", ctypes.c_int32))


class Native:
    """The library, with one of its builds in use."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._library = library
        self.name = name

    def takes(self, pieces: Sequence[Tensor]) -> bool:
        """Contiguous CPU tensors of the three dtypes."""
        return all(p.device.type == "cpu" and p.dtype in _DTYPES and p.is_contiguous() for p in pieces)

    def project_(self, d: int, n: int, seed: int, pieces: Sequence[Tensor], start: int, out: Tensor) -> None:
        """See `Kernel.project_`."""
        done = self._library.igc_project(
            d, n, seed, _array(pieces), len(pieces), start, out.data_ptr(), torch.get_num_threads()
        )
        _check(done)

    def add_expanded_(
        self, d: int, n: int, seed: int, pieces: Sequence[Tensor], start: int, x: Tensor, alpha: float
    ) -> None:
        """See `Kernel.add_expanded_`."""
        done = self._library.igc_add_expanded(
            d, n, seed, _array(pieces), len(pieces), start, x.data_ptr(), alpha, torch.get_num_threads()
        )
        _check(done)

    def fwht_(self, x: Tensor) -> Tensor:
        """Unnormalised Walsh-Hadamard transform of the last axis, in place; x contiguous float32, on the CPU."""
        n = x.shape[-1]
        _check(self._library.igc_fwht(x.data_ptr(), n, x.numel() // n, torch.get_num_threads()))
        return x


def load(name: str | None = None) -> Native | None:
    """The library with its fastest build that runs here, or a named one; None where it was not built.

    The environment variable ``IGC_KERNEL`` names the build to prefer; "reference" does without.
    """
    wanted = name or os.environ.get("IGC_KERNEL")
    library = _library()
    if library is None or wanted == "reference":
        return None
    if not library.igc_choose(wanted.encode() if wanted else None):
        if name is None:
            raise RuntimeError(
                f"IGC_KERNEL={wanted}: no such kernel runs here; there are {', '.join(names())}, reference"
            )
        return None
    return Native(library, library.igc_name().decode())


def names() -> list[str]:
    """The builds that run on this machine, the fastest first."""
    library = _library()
    if library is None:
        return []
    current = library.igc_name()
    found = [name for name in _BUILDS if library.igc_choose(name.encode())]
    library.igc_choose(current)
    return found


@cache
def _library() -> ctypes.CDLL | None:
    # The build backend puts the library where an extension module would be, in editable installs too.
    spec = importlib.util.find_spec("igc.projection.kernels._native")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:
        return None
    if library.igc_abi() != ABI:  # left over from another version of igc
        return None
    i64, pointer, integer = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    shape: list[Any] = [i64, i64, ctypes.c_uint64, ctypes.POINTER(_Piece), i64, i64, pointer]
    library.igc_name.restype = ctypes.c_char_p
    library.igc_choose.argtypes = [ctypes.c_char_p]
    library.igc_fwht.argtypes = [pointer, i64, i64, integer]
    library.igc_project.argtypes = [*shape, integer]
    library.igc_add_expanded.argtypes = [*shape, ctypes.c_float, integer]
    return library


def _array(pieces: Sequence[Tensor]) -> ctypes.Array[_Piece]:
    return (_Piece * len(pieces))(*(_Piece(p.data_ptr(), p.numel(), _DTYPES[p.dtype]) for p in pieces))


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("the native kernel could not get the memory, or a thread, that it asked for")
