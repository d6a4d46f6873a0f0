"""The upper half of IEEE 754 binary32."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs.base import Codec, Octets, flat

_LARGEST: Final = torch.finfo(torch.bfloat16).max


class BFloat16(Codec):
    """Two bytes an element, rounded to nearest, ties to even: a relative error of at most 2^-9, not unbiased.

    Finite numbers that would round to infinity, those above 3.396e38, become the largest finite one.
    """

    name = "bfloat16"
    number = 3
    lossless = False
    unbiased = False

    @override
    def encode(self, tensor: Tensor) -> bytes:
        values = torch.from_numpy(flat(tensor))
        cut = torch.where(torch.isfinite(values), values.clamp(-_LARGEST, _LARGEST), values)
        return cut.to(torch.bfloat16).view(torch.int16).numpy().astype("<i2", copy=False).tobytes()

    @override
    def length(self, shape: tuple[int, ...]) -> int:
        return 2 * math.prod(shape)

    @override
    def _decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        upper = np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16
        return torch.from_numpy(upper.view(np.float32)).view(shape)
