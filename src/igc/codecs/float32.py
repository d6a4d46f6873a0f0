"""IEEE 754 binary32: what is computed is what is sent."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs.base import Codec


class Float32(Codec):
    """Four bytes an element."""

    name = "float32"
    number = 0

    @override
    def encode(self, tensor: Tensor) -> bytes:
        return tensor.detach().to(torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes()

    @override
    def decode(self, data: bytes, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32)).view(shape)

    @override
    def length(self, shape: tuple[int, ...]) -> int:
        return 4 * math.prod(shape)
