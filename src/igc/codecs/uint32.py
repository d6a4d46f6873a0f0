"""Unsigned 32-bit integers: counts and indices."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs.base import Codec, Octets


class UInt32(Codec):
    """Four bytes an element; values from 0 to 2^32 - 1, held as int64."""

    name = "uint32"
    number = 1
    lossless = True
    unbiased = True

    @override
    def encode(self, tensor: Tensor) -> bytes:
        if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < 2**32:
            raise ValueError(
                f"values from {int(tensor.min())} to {int(tensor.max())} do not fit an unsigned 32-bit integer"
            )
        return tensor.detach().contiguous().numpy().astype("<u4").tobytes()

    @override
    def length(self, shape: tuple[int, ...]) -> int:
        return 4 * math.prod(shape)

    @override
    def _decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.frombuffer(data, dtype="<u4").astype(np.int64)).view(shape)
