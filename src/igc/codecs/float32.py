"""IEEE 754 binary32: what is computed is what is sent."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs.base import Codec, Octets, flat


class Float32(Codec):
    """Four bytes an element."""

    name = "float32"
    number = 0
    lossless = True
    unbiased = True

    @override
    def encode(self, tensor: Tensor) -> Octets:
        values = flat(tensor).astype("<f4", copy=False)
        return values.view(np.uint8).data if values.size else b""

    @override
    def length(self, shape: tuple[int, ...]) -> int:
        return 4 * math.prod(shape)

    @override
    def _decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32)).view(shape)
