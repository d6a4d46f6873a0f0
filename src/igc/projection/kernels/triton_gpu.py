"""The GPU kernel, in Triton: signs, transform and sum of a block without leaving the chip.

The transform is made of butterflies over the bits of an index from the lowest to the highest, as in the native kernel.
Each program takes blocks of one segment in turn and adds up in registers; partial sums are added afterwards, in a fixed
order, so that the result is the same on every run.

Runs on CUDA devices, and on the CPU in Triton's interpreter (``TRITON_INTERPRET=1``), where the tests hold it to the
reference. The interpreter takes what the compiler refuses, so they compile it too, for GPUs that need not be there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from igc.projection.philox import Stream

SMALLEST: Final = 128  # the signs of one counter
LARGEST: Final = 2**14  # what the registers of one program hold
_SUMS: Final = 2**22  # numbers in partial sums, 16 MB; a constant, so that the order of summation is one
_POINTS_A_WARP: Final = 1024  # 32 registers of each thread for a block, which leaves room for the sum and for addresses
_ROW_SIGNS: Final = tl.constexpr(int(Stream.ROW_SIGNS))
_COLUMN_SIGNS: Final = tl.constexpr(int(Stream.COLUMN_SIGNS))
_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)

# Triton reads annotations of arguments as code: a name that is not its own, such as Any, does not compile.


@triton.jit  # type: ignore[untyped-decorator]
def _flip(x: tl.tensor, seed: tl.tensor, stream: tl.constexpr, first: tl.tensor, n: tl.constexpr) -> tl.tensor:
    """Vector x (n,) with the signs of its points, the first of which has index ``first``, a multiple of 128."""
    counter = first // 128 + tl.arange(0, n // 128).to(tl.int64)
    low = (counter & 0xFFFFFFFF).to(tl.uint32)
    high = (counter >> 32).to(tl.uint32)
    nil = low * 0
    w0, w1, w2, w3 = tl.philox(seed, low, high, nil + stream, nil, n_rounds=10)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # the last two axes count the words of a counter
    words = tl.reshape(words, (n // 32, 1))
    bits = (words >> tl.arange(0, 32)[None, :].to(tl.uint32)) & 1
    bits = tl.reshape(bits, (n,))
    # The sign bit alone changes, so that NaN stays NaN and zero keeps its sign's meaning.
    return ((x.to(tl.uint32, bitcast=True)) ^ (bits << 31)).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _transform(x: tl.tensor, log: tl.constexpr) -> tl.tensor:
    """H x, for x of 2^log points.

    The lowest bit of the index is done and made the highest; after ``log`` times every bit is done, and in its place. The
    compiler keeps what it can in registers, and goes through shared memory three or four times for 2^14 points. Products
    by Hadamard matrices (`tl.dot`) spilled kilobytes of registers a thread, and took minutes to compile.
    """
    half: tl.constexpr = 1 << (log - 1)
    x = tl.reshape(x, (half, 2))
    for _ in tl.static_range(log):
        u, v = tl.split(x)
        x = tl.permute(tl.join(u + v, u - v), (1, 0))
        x = tl.reshape(x, (half, 2))
    return tl.reshape(x, (2 * half,))


@triton.jit  # type: ignore[untyped-decorator]
def _inside(point: tl.tensor, at: tl.tensor, size: tl.tensor) -> tl.tensor:
    """Whether at + point is in [0, size): bounds are cut down to 32 bits once, not a place of 64 bits for each point."""
    low = tl.minimum(tl.maximum(-at, 0), 2**20).to(tl.int32)
    high = tl.minimum(size - at, 2**20).to(tl.int32)
    return (point >= low) & (point < high)


@triton.jit(do_not_specialize=["seed", "segments"])  # type: ignore[untyped-decorator]
def _project_kernel(
    g: tl.tensor,
    start: tl.tensor,
    stop: tl.tensor,
    scale: tl.tensor,
    sums: tl.tensor,
    seed: tl.tensor,
    segments: tl.tensor,
    log: tl.constexpr,
) -> None:
    """sums[program] = scale * sum of C_b H R_b g_b over the blocks of rows start to stop that are this program's."""
    n: tl.constexpr = 1 << log
    point = tl.arange(0, n)
    total = tl.zeros((n,), dtype=tl.float32)
    # Program p takes segment p mod S: blocks p, p + programs, ..., counted from the first whole round of segments.
    block = (start // n) // segments * segments + tl.program_id(0).to(tl.int64)
    while block * n < stop:
        at = block * n - start
        inside = _inside(point, at, stop - start)
        x = tl.load(g + at + point, mask=inside, other=0.0).to(tl.float32)
        x = _flip(x, seed, _ROW_SIGNS, block * n, n)
        x = _transform(x, log)
        total += _flip(x, seed, _COLUMN_SIGNS, block * n, n)
        block += tl.num_programs(0)
    tl.store(sums + tl.program_id(0).to(tl.int64) * n + point, total * scale)


@triton.jit(do_not_specialize=["seed", "segments", "size", "longer"])  # type: ignore[untyped-decorator]
def _expand_kernel(
    y: tl.tensor,
    base: tl.tensor,
    start: tl.tensor,
    stop: tl.tensor,
    x: tl.tensor,
    seed: tl.tensor,
    segments: tl.tensor,
    size: tl.tensor,
    longer: tl.tensor,
    scale: tl.tensor,
    longer_scale: tl.tensor,
    log: tl.constexpr,
) -> None:
    """y_b = base_b + scale R_b H C_b x_q for a block of rows; the first ``longer`` segments have their own scale."""
    n: tl.constexpr = 1 << log
    point = tl.arange(0, n)
    block = start // n + tl.program_id(0).to(tl.int64)
    q = block % segments
    width = size + (q < longer).to(tl.int64)
    offset = q * size + tl.minimum(q, longer)
    v = tl.load(x + offset + point, mask=point < width, other=0.0)
    v = _flip(v, seed, _COLUMN_SIGNS, block * n, n)
    v = _transform(v, log)
    v = _flip(v, seed, _ROW_SIGNS, block * n, n)
    at = block * n - start
    inside = _inside(point, at, stop - start)
    old = tl.load(base + at + point, mask=inside, other=0.0)
    step = v * tl.where(q < longer, longer_scale, scale)
    tl.store(y + at + point, (old.to(tl.float32) + step).to(old.dtype), mask=inside)


class TritonKernel:
    """See `igc.projection.kernels.Kernel`."""

    name = "triton"

    def takes(self, pieces: Sequence[Tensor], n: int) -> bool:
        """Contiguous tensors on one GPU (or on the CPU, in the interpreter), in blocks of 2^7 to 2^14."""
        device = pieces[0].device
        runs = device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
        return (
            runs
            and SMALLEST <= n <= LARGEST
            and all(p.device == device and p.dtype in _DTYPES and p.is_contiguous() for p in pieces)
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
        segments = -(-d // n)
        for piece, factor in zip(pieces, scales or [1.0] * len(pieces), strict=True):
            stop = start + piece.numel()
            if piece.numel():
                deep = -(-(stop - start) // (n * segments)) + 1
                programs = segments * max(min(_SUMS // n // segments, deep), 1)
                sums = torch.empty(programs, n, dtype=torch.float32, device=piece.device)
                with _on(piece):
                    _project_kernel[(programs,)](
                        piece, start, stop, factor, sums, _signed(seed), segments, n.bit_length() - 1, **_options(n)
                    )
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
        scales: Sequence[float] | None = None,
    ) -> None:
        """See `Kernel.expand_onto_`."""
        segments = -(-d // n)
        size, longer = divmod(d, segments)
        for piece, base, factor in zip(pieces, bases, scales or [1.0] * len(pieces), strict=True):
            stop = start + piece.numel()
            if piece.numel():
                blocks = -(-stop // n) - start // n
                widths = alpha * factor * size**-0.5, alpha * factor * (size + 1) ** -0.5
                shape = segments, size, longer, *widths, n.bit_length() - 1
                with _on(piece):
                    _expand_kernel[(blocks,)](piece, base, start, stop, x, _signed(seed), *shape, **_options(n))
            start = stop


def load() -> TritonKernel | None:
    """The kernel, where there is a GPU, or the interpreter is asked for."""
    return TritonKernel() if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1" else None


def _options(n: int) -> dict[str, int | bool]:
    # No fused multiply-add: Triton's interpreter has none, and a sum must not change with a default of its compiler.
    return {"num_warps": max(n // _POINTS_A_WARP, 1), "enable_fp_fusion": False}


def _on(piece: Tensor) -> AbstractContextManager[object]:
    """Triton launches on PyTorch's current device, which need not be the tensors'."""
    return torch.cuda.device(piece.device) if piece.is_cuda else nullcontext()


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
