"""How a named tensor becomes bytes; one file per codec, a registry by name and by number on the wire."""

from __future__ import annotations

from igc.codecs.base import Codec
from igc.codecs.float32 import Float32
from igc.codecs.uint32 import UInt32

CODECS: dict[str, Codec] = {codec.name: codec for codec in (Float32(), UInt32())}
BY_NUMBER: dict[int, Codec] = {codec.number: codec for codec in CODECS.values()}

__all__ = ["BY_NUMBER", "CODECS", "Codec"]
