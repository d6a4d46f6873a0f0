"""DRIVE and EDEN: the best quantiser of a Gaussian, after a random rotation that makes numbers Gaussian.

Vargaftik et al., "DRIVE: one-bit distributed mean estimation", NeurIPS 2021, and "EDEN: communication-efficient and robust
distributed mean estimation for federated learning", ICML 2022. Of a bucket x of n numbers, rotated to R x, each number
z = sqrt(n) (R x) / ||x|| goes as the index of its centroid c(z), and the bucket as the scale

    S = ||x||^2 / <R x, c(z)>

from which R^T (S c(z)) is decoded: no bias, in the mean over rotations, at the price of a slightly larger error than with
the scale of least error. (Of a handful of numbers there are few rotations, and a bias stays: docs/messages.md.) One bit is
DRIVE: c is a sign times a constant, and S c = sign(R x) ||x||^2 / ||R x||_1.

The error, as a share of ||x||^2, is 0.571, 0.133, 0.0358 and 0.00959 at 1, 2, 3 and 4 bits: D / (1 - D), D being the
quantiser's error on a standard normal number.

`eden-b` rotates, under a seed of its own for each tensor. `lloyd-b` does not: it is for what is Gaussian already, as a
gradient is that a random subspace was drawn for. The error is the same there; the bias is gone in the mean over subspaces,
not in the mean over messages of one subspace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs.base import Codec, Floats, Octets, flat
from igc.codecs.buckets import bucket_count, read_scales, scale_, slabs, write_scales
from igc.codecs.noise import seed_of
from igc.codecs.packing import pack, packed_length, unpack
from igc.codecs.rotation import rotate, rotate_back

BUCKET: Final = 4096
_SEED_BYTES: Final = 4
# What is this near to a boundary is on it, and goes up. Rotations of few numbers, or of sparse ones, often end between two
# centroids but for rounding, and rounding has the same sign under every seed: decided by it, ties would be a bias.
_TIE: Final = 2**-14

# Max (1960), Lloyd (1982): the centroids above zero of the quantiser of a standard normal number with the least mean
# square error. Each is the mean of the numbers nearest to it; the tests solve for them.
POSITIVE_CENTROIDS: Final = {
    1: (0.797884560803,),
    2: (0.452780034636, 1.510417608499),
    3: (0.245094178944, 0.756005281206, 1.343909278505, 2.151945704537),
    4: (
        0.128395029851,
        0.388048299490,
        0.656759118532,
        0.942340456487,
        1.256231197347,
        1.618046386022,
        2.069017226531,
        2.732589570995,
    ),
}


@dataclass(frozen=True)
class Eden(Codec):
    """Where rotated, 4 bytes of seed; the scales of all buckets; the indices of centroids, from the least up, packed.

    Attributes:
        bits: of an index, 1 to 4.
        rotated: rotate first.
    """

    name: str
    number: int
    bits: int
    rotated: bool

    lossless = False

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Where it rotates; the randomness of a subspace is not the codec's own."""
        return self.rotated

    @property
    def centroids(self) -> Floats:
        """In ascending order, (2^bits,)."""
        half = POSITIVE_CENTROIDS[self.bits]
        return np.array([-c for c in reversed(half)] + list(half), dtype=np.float32)

    @override
    def encode(self, tensor: Tensor) -> bytes:
        values = flat(tensor)
        seed = seed_of(values, _SEED_BYTES) if self.rotated else 0
        scales = np.empty(bucket_count(values.size, BUCKET), dtype=np.float32)
        packed = []
        for start, rows in slabs(values, BUCKET):
            found, codes = self._quantise(rows, seed, start)
            scales[start // BUCKET : start // BUCKET + len(rows)] = found
            packed.append(pack(codes, self.bits))
        return self._seed_field(seed) + write_scales(scales) + b"".join(packed)

    @override
    def length(self, shape: tuple[int, ...]) -> int:
        count = math.prod(shape)
        return len(self._seed_field(0)) + 4 * bucket_count(count, BUCKET) + packed_length(count, self.bits)

    @override
    def _decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        head = len(self._seed_field(0))
        seed, data = int.from_bytes(data[:head], "little"), data[head:]
        head = 4 * bucket_count(count, BUCKET)
        scales = read_scales(data[:head])
        values = self.centroids[unpack(data[head:], count, self.bits)]
        if self.rotated:
            for start, rows in slabs(values, BUCKET):
                rows[:] = rotate_back(torch.from_numpy(rows), seed, start).numpy()
        scale_(values, scales, BUCKET)
        return torch.from_numpy(values).view(shape)

    def _seed_field(self, seed: int) -> bytes:
        return seed.to_bytes(_SEED_BYTES, "little") if self.rotated else b""

    def _quantise(self, rows: Floats, seed: int, start: int) -> tuple[Floats, npt.NDArray[np.uint8]]:
        """The scales (buckets,) and indices (buckets * width,) of some buckets (buckets, width)."""
        # In binary64, where no square of a binary32 number overflows or vanishes.
        rms = np.sqrt(np.square(rows, dtype=np.float64).mean(axis=1))
        sound = np.isfinite(rms) & (rms > 0)
        z = (np.where(sound[:, None], rows, 0) / np.where(sound, rms, 1)[:, None]).astype(np.float32)
        if self.rotated:
            z = rotate(torch.from_numpy(z), seed, start).numpy()
        codes = np.zeros(z.shape, dtype=np.uint8)
        centroids = self.centroids
        for boundary in (centroids[:-1] + centroids[1:]) / 2:
            codes += z >= boundary - _TIE
        along = (z * centroids[codes]).sum(axis=1, dtype=np.float64)
        square = np.square(z).sum(axis=1, dtype=np.float64)
        # What is not finite stays so, and what overflows binary32 becomes infinite: the receiver refuses either.
        scales = np.where(sound, square / np.where(sound, along, 1), 1) * rms
        with np.errstate(over="ignore"):
            return scales.astype(np.float32), codes.reshape(-1)
