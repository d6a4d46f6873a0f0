"""What every registered codec must satisfy, and what float32 and uint32 promise beyond it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from igc.codecs import BY_NUMBER, CODECS, Codec

FLOAT32, UINT32 = CODECS["float32"], CODECS["uint32"]
every = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def plain(shape: tuple[int, ...]) -> Tensor:
    """Small whole numbers, which any codec takes."""
    return (torch.arange(int(np.prod(shape))) % 7).view(shape)


def test_names_and_numbers_are_unique_and_numbers_fit_a_byte() -> None:
    assert {name: codec.name for name, codec in CODECS.items()} == {name: name for name in CODECS}
    assert len({codec.number for codec in CODECS.values()}) == len(CODECS) == len(BY_NUMBER)
    assert all(BY_NUMBER[codec.number] is codec and 0 <= codec.number <= 255 for codec in CODECS.values())


def test_numbers_on_the_wire_never_change() -> None:
    assert {codec.name: codec.number for codec in CODECS.values()} == {"float32": 0, "uint32": 1}


@every
@given(shape=shapes)
def test_the_length_is_known_before_and_the_shape_comes_back(codec: Codec, shape: tuple[int, ...]) -> None:
    data = codec.encode(plain(shape))
    assert codec.length(shape) == len(data)
    found = codec.decode(data, shape)
    assert tuple(found.shape) == shape
    assert codec.encode(found) == data  # what was received can be sent on unchanged


@every
def test_a_view_is_encoded_by_its_values(codec: Codec) -> None:
    value = plain((4, 6))
    assert codec.encode(value.t()) == codec.encode(value.t().contiguous())
    assert codec.encode(value[1:, ::2]) == codec.encode(value[1:, ::2].clone())


@every
def test_neither_side_keeps_a_hold_on_the_other(codec: Codec) -> None:
    value = plain((5,))
    data = codec.encode(value)
    found = codec.decode(data, (5,))
    found += 1
    assert codec.encode(value) == data
    assert torch.equal(codec.decode(data, (5,)) + 1, found)


@given(bits=st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_float32_keeps_every_bit_of_every_number(bits: list[int]) -> None:
    raw = np.array(bits, dtype=np.uint32)
    value = torch.from_numpy(raw.view(np.float32).copy())
    data = FLOAT32.encode(value)
    assert data == b"".join(word.to_bytes(4, "little") for word in bits)
    assert FLOAT32.decode(data, (len(bits),)).numpy().view(np.uint32).tolist() == bits


@pytest.mark.parametrize(
    "bits",
    [0x80000000, 0x00000001, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFDEAD01, 0x7F7FFFFF],
    ids=["-0", "subnormal", "-subnormal", "inf", "-inf", "nan", "signalling-nan", "nan-payload", "max"],
)
def test_float32_keeps_the_odd_numbers(bits: int) -> None:
    data = bits.to_bytes(4, "little")
    found = FLOAT32.decode(data, ())
    assert found.numpy().view(np.uint32) == bits
    assert FLOAT32.encode(found) == data


@given(values=st.lists(st.floats(width=32), max_size=9))
def test_float32_is_little_endian_ieee_754(values: list[float]) -> None:
    assert FLOAT32.encode(torch.tensor(values, dtype=torch.float32)) == struct.pack(f"<{len(values)}f", *values)


def test_float32_takes_what_needs_a_gradient() -> None:
    assert FLOAT32.encode(torch.ones(1, requires_grad=True)) == b"\x00\x00\x80\x3f"


@given(values=st.lists(st.integers(0, 2**32 - 1), max_size=9))
def test_uint32_is_little_endian_and_exact(values: list[int]) -> None:
    data = UINT32.encode(torch.tensor(values, dtype=torch.int64))
    assert data == struct.pack(f"<{len(values)}I", *values)
    found = UINT32.decode(data, (len(values),))
    assert found.dtype == torch.int64
    assert found.tolist() == values


@pytest.mark.parametrize("values", [[-1], [2**32], [0, 2**63 - 1], [-(2**63), 0]], ids=str)
def test_uint32_refuses_what_does_not_fit(values: list[int]) -> None:
    with pytest.raises(ValueError, match=f"values from {min(values)} to {max(values)} do not fit"):
        UINT32.encode(torch.tensor(values))
