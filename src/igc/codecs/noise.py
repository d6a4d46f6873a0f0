"""Random numbers that are a function of the tensor that is encoded: no seed to agree on, no generator to keep.

The same tensor gives the same bytes on every machine, and two clients' tensors, which differ, get independent noise. The
price: tensors that are equal in every bit get equal noise, which averaging them does not reduce.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch

from igc.codecs.base import Floats
from igc.projection.philox import Stream, words

_PERSON: Final = b"igc-codec"


def seed_of(values: Floats, size: int = 8) -> int:
    """A seed of so many bytes: BLAKE2b of the little-endian binary32 numbers, personalised ``igc-codec``."""
    octets = values.astype("<f4", copy=False).data
    return int.from_bytes(hashlib.blake2b(octets, digest_size=size, person=_PERSON).digest(), "little")


def uniforms(seed: int, start: int, count: int) -> Floats:
    """Numbers ``start`` to ``start + count`` of a seed, uniform in [0, 1), multiples of 2^-24; float32, shape (count,)."""
    found: Floats = ((words(seed, Stream.ROUNDING, start, count) >> 8).to(torch.float32) * 2.0**-24).numpy()
    return found
