"""Codes of a few bits, end to end.

Code i of b bits takes bits b i to b i + b - 1 of the stream; bit k of the stream is bit k mod 8 of byte k / 8, counted from
the least significant. What is left of the last byte is zero.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from igc.codecs.base import CodecError, Octets

Codes = npt.NDArray[np.uint8]


def packed_length(count: int, bits: int) -> int:
    """Bytes that so many codes take."""
    return -(-count * bits // 8)


def pack(codes: Codes, bits: int) -> bytes:
    """The bytes of some codes (n,), each below 2^bits; bits from 1 to 8."""
    group, size = _group(bits)
    padded = np.zeros(-(-codes.size // group) * group, dtype=np.uint8)
    padded[: codes.size] = codes
    words = np.zeros(padded.size // group, dtype=_word(size))
    for k in range(group):
        words |= padded[k::group].astype(words.dtype) << (bits * k)
    data = words.view(np.uint8).reshape(words.size, words.itemsize)[:, :size].tobytes()
    return data[: packed_length(codes.size, bits)]


def unpack(data: Octets, count: int, bits: int) -> Codes:
    """The codes (count,) in ``packed_length(count, bits)`` bytes.

    Raises:
        CodecError: a bit is set after the last code.
    """
    group, size = _group(bits)
    words = np.zeros(-(-count // group), dtype=_word(size))
    octets = np.zeros(words.size * size, dtype=np.uint8)
    octets[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    words.view(np.uint8).reshape(words.size, words.itemsize)[:, :size] = octets.reshape(-1, size)
    codes = np.empty(words.size * group, dtype=np.uint8)
    for k in range(group):
        codes[k::group] = (words >> (bits * k)) & (2**bits - 1)
    if codes[count:].any():
        raise CodecError("bits are set after the last number")
    return codes[:count]


def _group(bits: int) -> tuple[int, int]:
    """The least number of codes that fill whole bytes, and how many bytes."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _word(size: int) -> npt.DTypeLike:
    return "u1" if size == 1 else "<u4"
