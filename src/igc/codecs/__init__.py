"""How a named tensor becomes bytes; one file per codec, a registry by name and by number on the wire."""

from __future__ import annotations

from igc.codecs.base import Codec, CodecError, NotFiniteScaleError
from igc.codecs.bfloat16 import BFloat16
from igc.codecs.eden import Eden
from igc.codecs.float16 import Float16
from igc.codecs.float32 import Float32
from igc.codecs.integers import Integers
from igc.codecs.qsgd import Qsgd
from igc.codecs.uint32 import UInt32

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Float32(),
        UInt32(),
        Float16(),
        BFloat16(),
        Integers("int8", 4, bits=8),
        Integers("int4", 5, bits=4),
        Qsgd("qsgd-2", 6, bits=2),
        Qsgd("qsgd-4", 7, bits=4),
        Qsgd("qsgd-8", 8, bits=8),
        Eden("eden-1", 9, bits=1, rotated=True),
        Eden("eden-2", 10, bits=2, rotated=True),
        Eden("eden-3", 11, bits=3, rotated=True),
        Eden("eden-4", 12, bits=4, rotated=True),
        Eden("lloyd-1", 13, bits=1, rotated=False),
        Eden("lloyd-2", 14, bits=2, rotated=False),
        Eden("lloyd-3", 15, bits=3, rotated=False),
        Eden("lloyd-4", 16, bits=4, rotated=False),
    )
}
BY_NUMBER: dict[int, Codec] = {codec.number: codec for codec in CODECS.values()}

__all__ = ["BY_NUMBER", "CODECS", "Codec", "CodecError", "NotFiniteScaleError"]
