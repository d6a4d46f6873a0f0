"""Bits, end to end, against Python's big integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igc.codecs import CodecError
from igc.codecs.packing import pack, packed_length, unpack


@given(bits=st.sampled_from([1, 2, 3, 4, 8]), data=st.data())
def test_packing_is_one_little_endian_integer(bits: int, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    number = sum(code << bits * i for i, code in enumerate(codes))
    packed = pack(np.array(codes, dtype=np.uint8), bits)
    assert packed == number.to_bytes(-(-len(codes) * bits // 8), "little")
    assert len(packed) == packed_length(len(codes), bits)
    assert unpack(packed, len(codes), bits).tolist() == codes


@pytest.mark.parametrize(
    ("bits", "codes", "packed"),
    [
        (1, [1, 0, 1, 1, 0, 0, 0, 0, 1], "0d 01"),
        (2, [3, 2, 1, 0, 2], "1b 02"),
        (3, [7, 0, 1, 0, 0, 0, 0, 5], "47 00 a0"),
        (4, [1, 2, 15], "21 0f"),
        (8, [0, 255], "00 ff"),
    ],
)
def test_by_hand(bits: int, codes: list[int], packed: str) -> None:
    assert pack(np.array(codes, dtype=np.uint8), bits) == bytes.fromhex(packed)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_bit_after_the_last_code_is_refused(bits: int) -> None:
    for count in range(1, 20):
        spare = 8 * packed_length(count, bits) - bits * count
        for place in range(spare):
            data = bytearray(packed_length(count, bits))
            data[-1] = 0x80 >> place
            with pytest.raises(CodecError, match="after the last"):
                unpack(bytes(data), count, bits)
