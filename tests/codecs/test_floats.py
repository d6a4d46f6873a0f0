"""The two codecs of 16 bits, against NumPy's binary16 and exact fractions."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igc.codecs import CODECS, CodecError

FLOAT16, BFLOAT16 = CODECS["float16"], CODECS["bfloat16"]
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


@pytest.mark.parametrize(
    ("values", "data"),
    [
        # 1.5 = 3 * 2^-1 is 49152 = 7a00 at 2^-15, so the exponent is -15; -1 there is -32768 = f800.
        ([1.5, -1.0, 0.0], "f1 00 7a 00 f8 00 00"),
        # 65504 is the largest number of binary16: exponent 0; 1 is 3c00.
        ([65504.0, 1.0], "00 ff 7b 00 3c"),
        # 65519 still rounds to 65504, 65520 no longer does: exponent 1, and 32768 = 7800.
        ([65519.0], "00 ff 7b"),
        ([65520.0], "01 00 78"),
        # 2^-149 is the least number of both at exponent -125.
        ([2.0**-149], "83 01 00"),
        ([0.0], "83 00 00"),
        # binary32's largest is cut to 65504 * 2^112.
        ([-LARGEST], "70 ff fb"),
        ([math.inf, 1.0], "f1 00 7c 00 78"),
    ],
)
def test_float16_by_hand(values: list[float], data: str) -> None:
    assert FLOAT16.encode(torch.tensor(values)) == bytes.fromhex(data)


@given(values=st.lists(finite, min_size=1, max_size=8))
def test_float16_errs_by_its_bounds_and_what_was_received_can_be_sent_on(values: list[float]) -> None:
    data = FLOAT16.encode(torch.tensor(values))
    found = FLOAT16.decode(data, (len(values),))
    largest = max(abs(value) for value in values)
    for value, got in zip(values, found.tolist(), strict=True):
        bound = max(abs(Fraction(value)) / 2**11, Fraction(largest) / 2**40)
        assert abs(Fraction(got) - Fraction(value)) <= bound
    assert FLOAT16.encode(found) == data


@given(values=st.lists(st.floats(-65504, 65504, width=16), min_size=1, max_size=8))
def test_float16_keeps_binary16_numbers(values: list[float]) -> None:
    value = torch.tensor([65504.0, *values])  # which makes the exponent 0
    data = FLOAT16.encode(value)
    assert data == b"\0" + np.array([65504.0, *values], dtype="<f2").tobytes()
    assert torch.equal(FLOAT16.decode(data, (len(value),)), value)


@pytest.mark.parametrize("exponent", [-128, -126, 113, 127])
def test_float16_refuses_exponents_that_are_not_in_use(exponent: int) -> None:
    with pytest.raises(CodecError, match=f"exponent {exponent}"):
        FLOAT16.decode(struct.pack("<b", exponent) + b"\0\0", (1,))


@pytest.mark.parametrize(
    ("bits", "data"),
    [
        (0x3F800000, "80 3f"),
        (0x3F808000, "80 3f"),  # a tie, to even
        (0x3F818000, "82 3f"),  # a tie, to even
        (0x3F808001, "81 3f"),
        (0xBF807FFF, "80 bf"),
        (0x00008000, "00 00"),
        (0x00018000, "02 00"),
        (0x7F7F7FFF, "7f 7f"),
        (0x7F7FFFFF, "7f 7f"),  # would round to infinity
        (0xFF7FFFFF, "7f ff"),
        (0x7F800000, "80 7f"),
        (0xFF800000, "80 ff"),
    ],
)
def test_bfloat16_by_hand(bits: int, data: str) -> None:
    value = torch.from_numpy(np.array([bits], dtype=np.uint32).view(np.float32))
    assert BFLOAT16.encode(value) == bytes.fromhex(data)


@given(values=st.lists(finite, max_size=8))
def test_bfloat16_errs_by_half_a_unit_and_what_was_received_can_be_sent_on(values: list[float]) -> None:
    data = BFLOAT16.encode(torch.tensor(values, dtype=torch.float32))
    found = BFLOAT16.decode(data, (len(values),))
    for value, got in zip(values, found.tolist(), strict=True):
        assert abs(Fraction(got) - Fraction(value)) <= max(abs(Fraction(value)) / 2**8, Fraction(1, 2**134))
    assert BFLOAT16.encode(found) == data
