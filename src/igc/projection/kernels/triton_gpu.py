"""The GPU kernel, in Triton: signs, transform and sum of a block without leaving the chip.

A block of n = a b points is a matrix X (a, b), and its transform is H_a X H_b: two matrix products, whose factors, made
where they are used, have entries of 1 and -1. Each program takes blocks of one segment in turn and adds up in registers;
partial sums are added afterwards, in a fixed order, so that the result is the same on every run.

Runs on CUDA devices, and on the CPU in Triton's interpreter (``TRITON_INTERPRET=1``), where the tests hold it to the
reference.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from igc.projection.philox import Stream

SMALLEST: Final = 256  # tensor cores multiply matrices of at least 16 by 16
LARGEST: Final = 2**14  # what the registers of one program hold
_PROGRAMS: Final = 512  # partial sums at most; a constant, so that the order of summation is one
_ROW_SIGNS: Final = tl.constexpr(int(Stream.ROW_SIGNS))
_COLUMN_SIGNS: Final = tl.constexpr(int(Stream.COLUMN_SIGNS))
_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit  # type: ignore[untyped-decorator]
def _hadamard(n: tl.constexpr) -> Any:
    """H_n as float32 (n, n): (-1)^popcount(i & j)."""
    i = tl.arange(0, n)
    v = i[:, None] & i[None, :]
    v = v ^ (v >> 4)
    v = v ^ (v >> 2)
    v = v ^ (v >> 1)
    return 1.0 - 2.0 * (v & 1).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _flip(x: Any, seed: Any, stream: tl.constexpr, first: Any, a: tl.constexpr, b: tl.constexpr) -> Any:
    """X (a, b) with the signs of its points, the first of which has index ``first``, a multiple of 128."""
    counter = first // 128 + tl.arange(0, a * b // 128).to(tl.int64)
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = (counter >> 32).to(tl.uint32)
    nil = low * 0
    w0, w1, w2, w3 = tl.philox(seed, low, high, nil + stream, nil, n_rounds=10)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # the last two axes count the words of a counter
    words = tl.reshape(words, (a * b // 32, 1))
    bits = (words >> tl.arange(0, 32)[None, :].to(tl.uint32)) & 1
    bits = tl.reshape(bits, (a, b))
    # The sign bit alone changes, so that NaN stays NaN and zero keeps its sign's meaning.
    return ((x.to(tl.uint32, bitcast=True)) ^ (bits << 31)).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _transform(x: Any, a: tl.constexpr, b: tl.constexpr) -> Any:
    """H_a X H_b; in full float32, since sums of up to 2^14 terms follow."""
    x = tl.dot(_hadamard(a), x, input_precision="ieee")
    return tl.dot(x, _hadamard(b), input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def _project_kernel(
    g: Any, start: Any, stop: Any, scale: Any, sums: Any, seed: Any, segments: Any, a: tl.constexpr, b: tl.constexpr
) -> None:
    """sums[program] = scale * sum of C_b H R_b g_b over the blocks of rows start to stop that are this program's."""
    n: tl.constexpr = a * b
    point = tl.arange(0, a)[:, None] * b + tl.arange(0, b)[None, :]
    total = tl.zeros((a, b), dtype=tl.float32)
    # Program p takes segment p mod S: blocks p, p + programs, ..., counted from the first whole round of segments.
    block = (start // n) // segments * segments + tl.program_id(0).to(tl.int64)
    while block * n < stop:
        row = block * n + point
        x = tl.load(g + (row - start), mask=(row >= start) & (row < stop), other=0.0).to(tl.float32)
        x = _flip(x, seed, _ROW_SIGNS, block * n, a, b)
        x = _transform(x, a, b)
        total += _flip(x, seed, _COLUMN_SIGNS, block * n, a, b)
        block += tl.num_programs(0)
    tl.store(sums + tl.program_id(0).to(tl.int64) * n + point, total * scale)


@triton.jit  # type: ignore[untyped-decorator]
def _expand_kernel(
    y: Any,
    start: Any,
    stop: Any,
    x: Any,
    seed: Any,
    segments: Any,
    size: Any,
    longer: Any,
    scale: Any,
    longer_scale: Any,
    a: tl.constexpr,
    b: tl.constexpr,
) -> None:
    """y_b += scale R_b H C_b x_q for a block of rows start to stop; the first ``longer`` segments have their own scale."""
    n: tl.constexpr = a * b
    point = tl.arange(0, a)[:, None] * b + tl.arange(0, b)[None, :]
    block = start // n + tl.program_id(0).to(tl.int64)
    q = block % segments
    width = size + (q < longer).to(tl.int64)
    offset = q * size + tl.minimum(q, longer)
    v = tl.load(x + offset + point, mask=point < width, other=0.0)
    v = _flip(v, seed, _COLUMN_SIGNS, block * n, a, b)
    v = _transform(v, a, b)
    v = _flip(v, seed, _ROW_SIGNS, block * n, a, b)
    row = block * n + point
    inside = (row >= start) & (row < stop)
    old = tl.load(y + (row - start), mask=inside, other=0.0)
    step = v * tl.where(q < longer, longer_scale, scale)
    tl.store(y + (row - start), (old.to(tl.float32) + step).to(old.dtype), mask=inside)


class TritonKernel:
    """See `igc.projection.kernels.Kernel`."""

    name = "triton"

    def takes(self, pieces: Sequence[Tensor], n: int) -> bool:
        """Contiguous tensors on a GPU (or on the CPU, in the interpreter), in blocks of 2^8 to 2^14."""
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return SMALLEST <= n <= LARGEST and all(
            (p.is_cuda or (interpreted and p.device.type == "cpu")) and p.dtype in _DTYPES and p.is_contiguous()
            for p in pieces
        )

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
        """See `Kernel.project_`."""
        segments, a, b = -(-d // n), *_factors(n)
        for piece, factor in zip(pieces, scales or [1.0] * len(pieces), strict=True):
            stop = start + piece.numel()
            if piece.numel():
                deep = -(-(stop - start) // (n * segments)) + 1
                programs = segments * max(min(_PROGRAMS // segments, deep), 1)
                sums = torch.empty(programs, n, dtype=torch.float32, device=piece.device)
                _project_kernel[(programs,)](piece, start, stop, factor, sums, _signed(seed), segments, a, b)
                _fold_(out, sums.view(-1, segments, n).sum(0), d)
            start = stop

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
        """See `Kernel.add_expanded_`."""
        segments, a, b = -(-d // n), *_factors(n)
        size, longer = divmod(d, segments)
        for piece, factor in zip(pieces, scales or [1.0] * len(pieces), strict=True):
            stop = start + piece.numel()
            if piece.numel():
                blocks = -(-stop // n) - start // n
                widths = alpha * factor * size**-0.5, alpha * factor * (size + 1) ** -0.5
                _expand_kernel[(blocks,)](piece, start, stop, x, _signed(seed), segments, size, longer, *widths, a, b)
            start = stop


def load() -> TritonKernel | None:
    """The kernel, where there is a GPU, or the interpreter is asked for."""
    return TritonKernel() if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1" else None


def _factors(n: int) -> tuple[int, int]:
    half = (n.bit_length() - 1) // 2
    return n >> half, 1 << half


def _signed(seed: int) -> int:
    """The seed's 64 bits as Triton takes them."""
    return seed - 2**64 if seed >= 2**63 else seed


def _fold_(out: Tensor, total: Tensor, d: int) -> None:
    """Add (S, n) sums to out (d,), each segment scaled by its own 1 / sqrt(s)."""
    segments = total.shape[0]
    size, longer = divmod(d, segments)
    at = 0
    for rows, width in ((total[:longer], size + 1), (total[longer:], size)):
        count = rows.shape[0] * width
        out[at : at + count].view(-1, width).add_(rows[:, :width], alpha=width**-0.5) if count else None
        at += count
