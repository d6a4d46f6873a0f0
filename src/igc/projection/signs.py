"""What projections draw from Philox: signs, normal numbers and permutations, each a function of (seed, index) alone."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from igc.projection import kernels
from igc.projection.philox import Stream, blocks

SIGNS_A_BLOCK: Final = 128
_PERMUTATION_ROUNDS: Final = 4


def flip_(x: Tensor, seed: int, stream: Stream, start: int) -> Tensor:
    """Multiply, in place, element i of a float32 vector by the sign at index ``start + i`` of a stream.

    Sign i is bit (i mod 32) of word (i / 32 mod 4) of block (i / 128); a set bit is -1. Signs touch only the sign bit, so
    that flipping is exact and NaN stays NaN.
    """
    if kernels.flip_(x, seed, stream, start):
        return x
    first = start // SIGNS_A_BLOCK
    last = -(-(start + x.numel()) // SIGNS_A_BLOCK)
    found = blocks(seed, stream, first, last - first, device=x.device)
    # Bit k moves to the sign's place: (2^32 words as int32) << (31 - k).
    packed = torch.where(found >= 2**31, found - 2**32, found).to(torch.int32).reshape(-1, 1)
    places = torch.arange(31, -1, -1, dtype=torch.int32, device=x.device)
    masks = torch.bitwise_left_shift(packed, places).bitwise_and_(-(2**31)).reshape(-1)
    offset = start - first * SIGNS_A_BLOCK
    x.view(torch.int32).bitwise_xor_(masks[offset : offset + x.numel()])
    return x


def normals(seed: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal numbers ``start`` to ``start + count`` of a seed; float64, shape (count,).

    Box-Muller on 53-bit uniforms: block b gives numbers 2b (cosine) and 2b + 1 (sine).
    """
    first = start // 2
    last = -(-(start + count) // 2)
    w = blocks(seed, Stream.NORMALS, first, last - first, device=device)
    u = ((w[:, 0] << 21 | w[:, 1] >> 11) + 1).to(torch.float64) * 2.0**-53  # (0, 1], for the logarithm
    v = (w[:, 2] << 21 | w[:, 3] >> 11).to(torch.float64) * 2.0**-53  # [0, 1)
    radius = torch.sqrt(-2.0 * torch.log(u))
    angle = (2.0 * math.pi) * v
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).reshape(-1)
    return pairs[start - 2 * first : start - 2 * first + count]


def permutations(seed: int, first: int, count: int, bits: int, device: torch.device | str = "cpu") -> Tensor:
    """Pseudo-random permutations of range(2^bits), one for each index ``first`` to ``first + count``.

    Four rounds of ``i <- (a i + c) mod 2^bits`` (a odd) and ``i <- i xor (i >> ceil(bits / 2))``: each a bijection, so that
    any single value can be computed without the rest.

    Returns:
        int64 tensor of shape (count, 2^bits), each row a permutation.
    """
    index = torch.arange(2**bits, dtype=torch.int64, device=device).expand(count, -1)
    for round_ in range(_PERMUTATION_ROUNDS):
        w = blocks(seed, Stream.PERMUTATION, first, count, lane=round_, device=device)
        index = (index * (w[:, :1] | 1) + w[:, 1:2]) & (2**bits - 1)
        index = index ^ (index >> ((bits + 1) // 2))
    return index
