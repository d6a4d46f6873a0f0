"""Philox4x32-10, the counter-based generator behind every sign, permutation and normal number of a projection.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A pure function of (seed,
stream, index): any slice, in any order, on any device gives the same bits. ``docs/projections.md`` specifies the layout
for other languages; ``tests/vectors`` holds known answers.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

MAX_SEED: Final = 2**64 - 1
_MASK: Final = 0xFFFFFFFF
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10


class Stream(IntEnum):
    """Third counter word: what a block of random words is for. Values are part of the specification."""

    ROW_SIGNS = 0
    COLUMN_SIGNS = 1
    NORMALS = 2
    PERMUTATION = 3
    SHIFTS = 4
    CHILD_SEED = 5
    SAMPLING = 6
    BATCHES = 7
    DROPOUT = 8
    ROUNDING = 9
    COORDINATES = 10
    WEIGHTS = 11


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> Tensor:
    """Philox4x32-10 of many counters under one key.

    Args:
        counter: four int64 tensors of one shape (...), each element in [0, 2^32).
        seed: the key, in [0, 2^64).

    Returns:
        int64 tensor of shape (..., 4), each element in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, seed >> 32
    for _ in range(_ROUNDS):
        # A product of two 32-bit numbers wraps in int64, but its bits are right: shift, then mask the sign's extension.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), dim=-1)


def blocks(
    seed: int, stream: Stream, start: int, count: int, lane: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """Random words of the consecutive counters ``start`` to ``start + count``; shape (count, 4), in [0, 2^32)."""
    if lane == 0 and torch.device(device).type == "cpu":
        from igc.projection import kernels  # noqa: PLC0415 - the kernel of a GPU is written on this module

        found = kernels.words(seed, stream, start, count)
        if found is not None:
            return found
    index = torch.arange(start, start + count, dtype=torch.int64, device=device)
    constant = torch.zeros_like(index)
    return philox((index & _MASK, index >> 32, constant + int(stream), constant + lane), seed)


def words(seed: int, stream: Stream, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The words ``start`` to ``start + count`` of a stream, four to a block; shape (count,), in [0, 2^32)."""
    first = start // 4
    last = -(-(start + count) // 4)
    found = blocks(seed, stream, first, last - first, device=device).reshape(-1)
    return found[start - 4 * first : start - 4 * first + count]


@lru_cache(maxsize=2**14)  # methods with fresh matrices ask for those of every past epoch, every time
def child_seed(seed: int, *path: int) -> int:
    """An independent 64-bit seed for each path of integers in [0, 2^63), such as (epoch, subspace)."""
    for step in path:
        w0, w1 = blocks(seed, Stream.CHILD_SEED, step, 1)[0, :2].tolist()
        seed = w0 | w1 << 32
    return seed


def permutation(seed: int, count: int, stream: Stream = Stream.SAMPLING) -> list[int]:
    """A uniform permutation of ``range(count)``: the order of 62-bit random keys, ties broken by index."""
    pairs = blocks(seed, stream, 0, count)
    keys = (pairs[:, 0] >> 1) << 31 | pairs[:, 1] >> 1
    order: list[int] = torch.argsort(keys, stable=True).tolist()
    return order


def uniform(seed: int, stream: Stream, index: int) -> float:
    """The uniform number in [0, 1) at an index of a stream, with 32 bits."""
    word: int = words(seed, stream, index, 1).item()  # type: ignore[assignment]
    return word / 2**32
