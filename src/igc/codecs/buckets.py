"""Buckets of consecutive numbers, each with a scale of its own: what the codecs of a few bits have in common.

A gradient's tensors differ in size by orders of magnitude; one scale for all would drown the small ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from igc.codecs.base import CodecError, Floats, NotFiniteScaleError, Octets

_SLAB = 2**18  # numbers worked on at a time: what a core's cache holds, with room for temporaries


def bucket_count(count: int, bucket: int) -> int:
    """Buckets of so many numbers; the last may be shorter."""
    return -(-count // bucket)


def slabs(values: Floats, bucket: int) -> Iterator[tuple[int, Floats]]:
    """Views of an array (n,) as (buckets, bucket), some buckets at a time, each with its start; a short last one alone."""
    whole = values.size // bucket * bucket
    step = max(_SLAB // bucket, 1) * bucket
    for start in range(0, whole, step):
        yield start, values[start : min(start + step, whole)].reshape(-1, bucket)
    if whole < values.size:
        yield whole, values[whole:].reshape(1, -1)


def scale_(values: Floats, scales: Floats, bucket: int) -> None:
    """Multiply each bucket of an array (n,) by its scale, in place; it is the receiver who refuses an infinity."""
    whole = values.size // bucket
    with np.errstate(over="ignore"):
        values[: whole * bucket].reshape(-1, bucket)[:] *= scales[:whole, None]
        if whole < scales.size:
            values[whole * bucket :] *= scales[whole]


def write_scales(scales: Floats) -> bytes:
    """Binary32, end to end."""
    return scales.astype("<f4", copy=False).tobytes()


def read_scales(data: Octets) -> Floats:
    """What `write_scales` wrote.

    Raises:
        NotFiniteScaleError: a scale is NaN or infinite.
        CodecError: a scale is negative.
    """
    scales: Floats = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(scales).all():
        at = int(np.argmin(np.isfinite(scales)))
        raise NotFiniteScaleError(
            f"scale {at} is {scales[at]}: the sender's numbers hold NaN or infinity, or are too large"
        )
    if np.signbit(scales).any():
        at = int(np.argmax(np.signbit(scales)))
        raise CodecError(f"scale {at} is {scales[at]}, and negative")
    return scales
