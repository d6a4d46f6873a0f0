"""A seeded random rotation of each row: two rounds of random signs and Walsh-Hadamard transforms, of any width.

One round leaves sparse rows far from Gaussian, and DRIVE's scale biased on them: (1, 1/2, 0, 0, ...) becomes three halves
and one half throughout, and comes back from its signs as (5/4, 0, 0, 0, ...) under every seed. The second round mends that.

A width m that is no power of two is not padded. With n the largest power of two below m, a round transforms the first n
numbers, then the last n, and a shuffle between the rounds spreads what one of the two held over both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from igc.projection.kernels import kernel_for
from igc.projection.kernels.native import Native
from igc.projection.philox import Stream, permutation
from igc.projection.signs import flip_


def rotate(rows: Tensor, seed: int, start: int) -> Tensor:
    """Rotate each row.

    Args:
        rows: (count, m) float32, contiguous; may be overwritten.
        seed: of the signs, row signs for the first round, column signs for the second, and of the shuffle
            (docs/projections.md).
        start: index of the first number's signs.

    Returns:
        (count, m) float32, contiguous, with the norms of ``rows`` to rounding.
    """
    spans = _spans(rows.shape[1])
    rows = _transform(_flip(rows, seed, Stream.ROW_SIGNS, start), spans)
    if len(spans) > 1:
        rows = rows[:, permutation(seed, rows.shape[1])]
    return _transform(_flip(rows, seed, Stream.COLUMN_SIGNS, start), spans)


def rotate_back(rows: Tensor, seed: int, start: int) -> Tensor:
    """The inverse of `rotate`."""
    spans = _spans(rows.shape[1])
    rows = _flip(_transform(rows, spans[::-1]), seed, Stream.COLUMN_SIGNS, start)
    if len(spans) > 1:
        shuffled, rows = rows, torch.empty_like(rows)
        rows[:, permutation(seed, rows.shape[1])] = shuffled
    return _flip(_transform(rows, spans[::-1]), seed, Stream.ROW_SIGNS, start)


def _spans(width: int) -> list[tuple[int, int]]:
    """What a round transforms, one after the other; both of a power of two."""
    n = 1 << (width.bit_length() - 1)
    return [(0, n)] if n == width else [(0, n), (width - n, width)]


def _transform(rows: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    for first, last in spans:
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
