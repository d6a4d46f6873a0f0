"""The contract of a codec."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from igc.errors import IgcError

Floats = npt.NDArray[np.float32]
Octets = bytes | memoryview  # a view, so that a model's worth of bytes is not copied to be written or read


class CodecError(IgcError):
    """Bytes that no encoder writes; the message says which and where."""


class NotFiniteScaleError(CodecError):
    """A scale is NaN or infinite: so a lossy codec says that the numbers were, or that they were too large for it."""


class Codec(ABC):
    """Turns a tensor into bytes and back. Byte order is little-endian on every machine.

    Encoding is a function of the tensor's values alone: the same tensor gives the same bytes, whatever the state of any
    random generator. It never hides that a number is NaN or infinite: either the decoded one is too, or decoding raises.

    Attributes:
        name: as in recipes.
        number: as on the wire, 0 to 255; never reused.
        lossless: what is decoded equals what was encoded, once that is in the codec's own type.
        unbiased: the mean of what is decoded, over the codec's own randomness, is what was encoded.
    """

    name: str
    number: int
    lossless: bool
    unbiased: bool

    @abstractmethod
    def encode(self, tensor: Tensor) -> Octets:
        """The ``length(tensor.shape)`` bytes of a CPU tensor; may be a view of its memory."""

    def decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        """A new tensor of this shape.

        Raises:
            CodecError: these are not ``length(shape)`` bytes, or not bytes that an encoder writes.
        """
        if len(data) != self.length(shape):
            raise CodecError(f"{len(data)} bytes where {self.name} takes {self.length(shape)} for shape {shape}")
        return self._decode(data, shape)

    @abstractmethod
    def length(self, shape: tuple[int, ...]) -> int:
        """The number of bytes that a tensor of this shape takes."""

    @abstractmethod
    def _decode(self, data: Octets, shape: tuple[int, ...]) -> Tensor:
        """As `decode`, of the right number of bytes."""


def flat(tensor: Tensor) -> Floats:
    """A tensor's elements as float32, row-major, shape (n,); may share its memory."""
    values: Floats = tensor.detach().to(torch.float32).contiguous().view(-1).numpy()
    return values
