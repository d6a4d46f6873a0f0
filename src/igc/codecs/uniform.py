"""Evenly spaced levels with stochastic rounding, and a scale for each bucket: what int8, int4 and QSGD share.

With s levels on either side of zero, x of a bucket with scale m becomes the integer next to s x / m, below or above with
the probabilities that make its mean s x / m. Whatever m is, as long as |x| <= m, what is decoded is unbiased.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs.base import Codec, CodecError, Floats, Octets, flat
from igc.codecs.buckets import bucket_count, read_scales, scale_, slabs, write_scales
from igc.codecs.noise import seed_of, uniforms
from igc.codecs.packing import pack, packed_length, unpack

BUCKET: Final = 512


@dataclass(frozen=True)
class Uniform(Codec):
    """The scales of all buckets, then the levels in two's complement of ``bits`` bits, packed.

    Attributes:
        bits: b, of a level; levels go from -s to s with s = 2^(b-1) - 1.
    """

    name: str
    number: int
    bits: int

    lossless = False
    unbiased = True

    @property
    def levels(self) -> int:
        """s, the number of levels on either side of zero."""
        return int(2 ** (self.bits - 1) - 1)

    @abstractmethod
    def scales(self, rows: Floats) -> npt.NDArray[np.floating]:
        """The scale of each bucket (buckets,) in ``rows`` (buckets, width): at least its largest magnitude."""

    @override
    def encode(self, tensor: Tensor) -> bytes:
        values = flat(tensor)
        seed = seed_of(values)
        scales = np.empty(bucket_count(values.size, BUCKET), dtype=np.float32)
        packed = []
        for start, rows in slabs(values, BUCKET):
            with np.errstate(over="ignore", invalid="ignore"):
                found = self.scales(rows).astype(np.float32)
            scales[start // BUCKET : start // BUCKET + len(rows)] = found
            packed.append(pack(self._round(rows, found, uniforms(seed, start, rows.size)), self.bits))
        return write_scales(scales) + b"".join(packed)

    @override
    def length(self, shape: tuple[int, ...]) -> int:
        count = math.prod(shape)
        return 4 * bucket_count(count, BUCKET) + packed_length(count, self.bits)

    @override
    def _decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        head = 4 * bucket_count(count, BUCKET)
        scales, codes = read_scales(data[:head]), unpack(data[head:], count, self.bits)
        unused = codes == 2 ** (self.bits - 1)
        if unused.any():
            at = int(np.argmax(unused))
            raise CodecError(f"number {at} has level {-self.levels - 1}; the least is {-self.levels}")
        table = _signed(np.arange(2**self.bits), self.bits).astype(np.float32) / np.float32(self.levels)
        values = table[codes]
        scale_(values, scales, BUCKET)
        return torch.from_numpy(values).view(shape)

    def _round(self, rows: Floats, scales: Floats, noise: Floats) -> npt.NDArray[np.uint8]:
        sound = np.isfinite(scales) & (scales > 0)
        # Divided first: s / m overflows where m is tiny, x / m never does.
        exact = np.where(sound[:, None], rows, np.float32(0)) / np.where(sound, scales, np.float32(1))[:, None]
        exact = (exact * np.float32(self.levels)).reshape(-1)
        below = np.floor(exact)
        level = below.astype(np.int8) + (noise < exact - below)
        return level.view(np.uint8) & np.uint8(2**self.bits - 1)


def _signed(codes: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    return np.where(codes < 2 ** (bits - 1), codes, codes - 2**bits)
