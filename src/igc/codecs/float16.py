"""IEEE 754 binary16 with one shared exponent, so that a gradient neither overflows nor vanishes."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs.base import Codec, CodecError, Octets, flat

_LARGEST: Final = 65504.0
# The exponents at which the least and the greatest binary32 numbers are binary16 numbers. Only finite numbers beyond
# 65504 * 2^112, which no binary16 number is near enough to, are cut to that.
_LEAST_EXPONENT: Final = -125
_GREATEST_EXPONENT: Final = 112


class Float16(Codec):
    """One byte for the exponent e, then two for each element: its binary16 number times 2^e.

    e is the least exponent at which the largest finite magnitude fits. So the relative error is at most 2^-11 for numbers
    down to 2^-29 of the largest, and the absolute error at most 2^-40 of the largest below that. Rounds to nearest, ties
    to even: not unbiased.
    """

    name = "float16"
    number = 2
    lossless = False
    unbiased = False

    @override
    def encode(self, tensor: Tensor) -> bytes:
        values = torch.from_numpy(flat(tensor))
        finite = torch.isfinite(values)
        largest = float(torch.where(finite, values, 0.0).abs().max()) if values.numel() else 0.0
        exponent = _exponent(largest)
        scaled = values * 2.0**-exponent  # exact, but for numbers far too small for binary16
        halves = torch.where(finite, scaled.clamp(-_LARGEST, _LARGEST), values).to(torch.float16)
        return exponent.to_bytes(1, "little", signed=True) + halves.numpy().astype("<f2", copy=False).tobytes()

    @override
    def length(self, shape: tuple[int, ...]) -> int:
        return 1 + 2 * math.prod(shape)

    @override
    def _decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        exponent = int.from_bytes(data[:1], "little", signed=True)
        if not _LEAST_EXPONENT <= exponent <= _GREATEST_EXPONENT:
            raise CodecError(f"exponent {exponent}; {_LEAST_EXPONENT} to {_GREATEST_EXPONENT} are in use")
        halves = torch.from_numpy(np.frombuffer(data, dtype="<f2", offset=1).astype(np.float16))
        return (halves.to(torch.float32) * 2.0**exponent).view(shape)


def _exponent(largest: float) -> int:
    """The least e, within bounds, at which ``largest`` / 2^e rounds to at most 65504."""
    if largest == 0:
        return _LEAST_EXPONENT
    fraction, power = math.frexp(largest)
    if float(np.float16(fraction)) == 1.0:
        power += 1
    return min(max(power - 16, _LEAST_EXPONENT), _GREATEST_EXPONENT)
