"""A seeded random rotation of each row: two rounds of random signs and Walsh-Hadamard transforms, of any width.

One round leaves sparse rows far from Gaussian, and DRIVE's scale biased on them: (1, 1/2, 0, 0, ...) becomes three halves
and one half throughout, and comes back from its signs as (5/4, 0, 0, 0, ...) under every seed. The second round mends that.

A width m that is no power of two is not padded. With n the largest power of two below m, a round transforms the first n
numbers, then the last n, and a shuffle between the rounds spreads what one of the two held over both. The second transform
has signs of its own: two with nothing but a shift between them nearly cancel where m is a little more than n.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from igc.projection.kernels import kernel_for
from igc.projection.kernels.native import Native
from igc.projection.philox import Stream, permutation
from igc.projection.signs import flip_

_ROUNDS: Final = (Stream.ROW_SIGNS, Stream.COLUMN_SIGNS)
_SECOND_SIGNS: Final = 2**40  # beyond all numbers of a tensor


def rotate(rows: Tensor, seed: int, start: int) -> Tensor:
    """Rotate each row.

    Args:
        rows: (count, m) float32, contiguous; may be overwritten. A width that is no power of two has one row.
        seed: of the signs, row signs for the first round, column signs for the second, and of the shuffle
            (docs/projections.md).
        start: index of the first number's signs.

    Returns:
        (count, m) float32, contiguous, with the norms of ``rows`` to rounding.
    """
    width = rows.shape[1]
    for stream in _ROUNDS:
        if stream == Stream.COLUMN_SIGNS and _is_split(width):
            rows = rows[:, permutation(seed, width)]
        for first, last, offset in _spans(width):
            rows = _transform(_flip(rows, seed, stream, start + offset), first, last)
    return rows


def rotate_back(rows: Tensor, seed: int, start: int) -> Tensor:
    """The inverse of `rotate`."""
    width = rows.shape[1]
    for stream in reversed(_ROUNDS):
        for first, last, offset in reversed(_spans(width)):
            rows = _flip(_transform(rows, first, last), seed, stream, start + offset)
        if stream == Stream.COLUMN_SIGNS and _is_split(width):
            shuffled, rows = rows, torch.empty_like(rows)
            rows[:, permutation(seed, width)] = shuffled
    return rows


def _is_split(width: int) -> bool:
    """Whether a round takes two transforms."""
    return width & (width - 1) != 0


def _spans(width: int) -> list[tuple[int, int, int]]:
    """What a round transforms, one after the other, each of a power of two; and where the signs before it begin."""
    n = 1 << (width.bit_length() - 1)
    return [(0, n, 0), (width - n, width, _SECOND_SIGNS)] if _is_split(width) else [(0, n, 0)]


def _transform(rows: Tensor, first: int, last: int) -> Tensor:
    part = _hadamard(rows[:, first:last].contiguous()).mul_((last - first) ** -0.5)
    if last - first == rows.shape[1]:
        return part
    rows[:, first:last] = part
    return rows


def _hadamard(x: Tensor) -> Tensor:
    """The unnormalised transform of the last axis, by butterflies of distance 1, 2, 4, ...; may overwrite ``x``.

    Sums are formed in that order and no other, so that all machines send the same bytes. The native kernel keeps to it, a
    matrix product would not.
    """
    kernel = kernel_for([x], x.shape[-1])
    if isinstance(kernel, Native):
        return kernel.fwht_(x)
    shape, half = x.shape, 1
    while half < shape[-1]:
        pairs = x.reshape(-1, 2, half)
        x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), dim=1)
        half *= 2
    return x.reshape(shape)


def _flip(rows: Tensor, seed: int, stream: Stream, start: int) -> Tensor:
    flip_(rows.view(-1), seed, stream, start)
    return rows
