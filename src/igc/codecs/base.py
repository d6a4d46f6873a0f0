"""The contract of a codec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Codec(ABC):
    """Turns a tensor into bytes and back. Byte order is little-endian on every machine.

    Attributes:
        name: as in recipes.
        number: as on the wire, 0 to 255; never reused.
    """

    name: ClassVar[str]
    number: ClassVar[int]

    @abstractmethod
    def encode(self, tensor: Tensor) -> bytes:
        """The bytes of a CPU tensor."""

    @abstractmethod
    def decode(self, data: bytes, shape: tuple[int, ...]) -> Tensor:
        """A new tensor of this shape from ``length(shape)`` bytes."""

    @abstractmethod
    def length(self, shape: tuple[int, ...]) -> int:
        """The number of bytes that a tensor of this shape takes."""
