"""Gaussian noise that nobody else can compute.

Noise that a recipe's seed would give is noise that every client can subtract. So it comes from the operating system's
generator, number by number, and not from a seeded one: PyTorch's on the CPU, for one, keeps 32 bits of a seed, few enough
to try them all. A seed of its own replaces it in tests and simulations only, where nothing is secret.

Samples are floating-point numbers, and such numbers have holes that an exact analysis can see (Mironov, "On significance of
the least significant bits for differential privacy", CCS 2012); nothing here closes them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from igc.projection.philox import child_seed


@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal numbers.

    Attributes:
        std: their standard deviation.
        seed: None: the operating system's secret; else, for simulation, noise that anyone with the seed can compute.
    """

    std: float
    seed: int | None = None

    def add(self, vector: Tensor, round: int, name: str) -> Tensor:
        """The vector (d,) with noise on each number.

        Args:
            vector: float32.
            round: counted from 0.
            name: whose noise it is; with a seed, round and name make it.
        """
        uniforms = self._uniforms(vector.numel(), round, name)
        normals = torch.special.ndtri(uniforms).reshape(vector.shape)
        noisy: Tensor = vector.double() + self.std * normals
        return noisy.to(vector.dtype)

    def _uniforms(self, count: int, round: int, name: str) -> Tensor:
        """Numbers strictly between 0 and 1, odd multiples of 2^-53, float64."""
        if self.seed is None:
            data = os.urandom(8 * count)
        else:
            digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
            key = child_seed(self.seed, round, int.from_bytes(digest, "little") >> 1)
            data = np.random.Generator(np.random.Philox(key=key)).bytes(8 * count)
        bits = np.frombuffer(data, dtype="<u8") >> 12  # of 53, 0.5 could round up to 1
        return torch.from_numpy((bits.astype(np.float64) + 0.5) * 2.0**-52)
