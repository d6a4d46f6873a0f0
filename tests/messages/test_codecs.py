"""What every registered codec must satisfy, and what float32 and uint32 promise beyond it; tests/codecs has the others."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.codecs import BY_NUMBER, CODECS, Codec, CodecError, NotFiniteScaleError
from support.strategies import vector

FLOAT32, UINT32 = CODECS["float32"], CODECS["uint32"]
every = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
REAL = {name: codec for name, codec in CODECS.items() if name != "uint32"}
every_real = pytest.mark.parametrize("codec", REAL.values(), ids=REAL.keys())
LARGEST, LEAST = torch.finfo(torch.float32).max, 2.0**-149


def least(codec: Codec) -> float:
    """The spacing of a codec's numbers nearest to zero, where they have fewer digits."""
    return 2.0**-133 if codec.name == "bfloat16" else LEAST


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def plain(shape: tuple[int, ...]) -> Tensor:
    """Small whole numbers, which any codec takes."""
    return (torch.arange(int(np.prod(shape))) % 7).view(shape)


def test_names_and_numbers_are_unique_and_numbers_fit_a_byte() -> None:
    assert {name: codec.name for name, codec in CODECS.items()} == {name: name for name in CODECS}
    assert len({codec.number for codec in CODECS.values()}) == len(CODECS) == len(BY_NUMBER)
    assert all(BY_NUMBER[codec.number] is codec and 0 <= codec.number <= 255 for codec in CODECS.values())


def test_numbers_on_the_wire_never_change() -> None:
    assert {codec.name: codec.number for codec in CODECS.values()} == {
        "float32": 0,
        "uint32": 1,
        "float16": 2,
        "bfloat16": 3,
        "int8": 4,
        "int4": 5,
        "qsgd-2": 6,
        "qsgd-4": 7,
        "qsgd-8": 8,
        "eden-1": 9,
        "eden-2": 10,
        "eden-3": 11,
        "eden-4": 12,
        "lloyd-1": 13,
        "lloyd-2": 14,
        "lloyd-3": 15,
        "lloyd-4": 16,
    }


@every
@given(shape=shapes)
def test_the_length_is_known_before_and_the_shape_comes_back(codec: Codec, shape: tuple[int, ...]) -> None:
    data = codec.encode(plain(shape))
    assert codec.length(shape) == len(data)
    found = codec.decode(data, shape)
    assert tuple(found.shape) == shape
    if codec.lossless:
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


@every_real
@pytest.mark.parametrize("count", [1, 3, 511, 512, 513, 4096, 4099])
def test_bytes_depend_on_the_values_alone(codec: Codec, count: int) -> None:
    value = vector(count, 3)
    data = codec.encode(value)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.manual_seed(count)
        torch.set_num_threads(3 - min(threads, 2))
        assert codec.encode(value) == data
        again = codec.decode(data, (count,))
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    assert torch.equal(again, codec.decode(data, (count,)))
    assert codec.encode(value.double()) == data
    assert codec.encode(value.view(1, count, 1, 1)) == data


@every_real
def test_no_generator_is_touched(codec: Codec) -> None:
    before = torch.get_rng_state()
    codec.decode(codec.encode(vector(100, 0)), (100,))
    assert torch.equal(torch.get_rng_state(), before)


@every_real
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 700, 5000])
def test_a_number_that_is_not_finite_never_comes_out_as_one_that_is(codec: Codec, odd: float, place: int) -> None:
    value = vector(5001, 1)
    value[place] = odd
    data = codec.encode(value)
    assert len(data) == codec.length((5001,))
    try:
        found = codec.decode(data, (5001,))
    except NotFiniteScaleError as error:
        assert "NaN or infinity" in str(error)
    else:
        assert not bool(torch.isfinite(found[place]))
        assert bool(torch.isfinite(torch.cat((found[:place], found[place + 1 :]))).all())


@every_real
def test_zeros_stay_zeros(codec: Codec) -> None:
    for shape in ((), (1,), (0,), (3, 0, 2), (513,), (2, 3, 4, 5)):
        assert torch.equal(codec.decode(codec.encode(torch.zeros(shape)), shape), torch.zeros(shape))
        assert torch.equal(codec.decode(codec.encode(-torch.zeros(shape)), shape), torch.zeros(shape))


@every_real
@pytest.mark.parametrize("value", [1.0, -0.3, 2.0**-126, 3 * LEAST, LEAST, -LEAST, 1e38, 1e-40])
def test_a_number_alone_comes_back(codec: Codec, value: float) -> None:
    for shape in ((), (1,), (1, 1, 1, 1)):
        found = codec.decode(codec.encode(torch.full(shape, value)), shape)
        assert tuple(found.shape) == shape
        assert abs(found.item() / value - 1) <= 2**-8 or abs(found.item() - value) <= least(codec)


@every_real
@pytest.mark.parametrize("value", [LARGEST, -LARGEST])
def test_the_largest_numbers_come_back_or_are_refused(codec: Codec, value: float) -> None:
    data = codec.encode(torch.full((3,), value))
    try:
        found = codec.decode(data, (3,))
    except NotFiniteScaleError as error:
        assert "too large" in str(error)
    else:
        refused = ~torch.isfinite(found)  # by the receiver
        near = (found.double() / value - 1).abs() <= 2**-8
        assert codec.name.startswith("eden") or bool((refused | near).all())  # a rotation keeps the norm alone


@every_real
@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-100, 2.0**80, 2.0**110])
def test_the_error_does_not_depend_on_the_unit(codec: Codec, scale: float) -> None:
    value = vector(600, 2)
    unit = codec.decode(codec.encode(value), (600,)).double() - value.double()
    value = value * scale
    found = codec.decode(codec.encode(value), (600,)).double() - value.double()
    assert float(found.norm()) <= 1.25 * scale * float(unit.norm()) + 25 * least(codec)


@every
@pytest.mark.parametrize("shape", [(), (1,), (7,), (513,), (0,), (2, 3, 4, 5)], ids=str)
def test_another_number_of_bytes_is_refused(codec: Codec, shape: tuple[int, ...]) -> None:
    data = bytes(codec.encode(plain(shape)))
    for wrong in (data + b"\0", data[:-1] if data else b"\1\2", data + data + b"\0"):
        with pytest.raises(CodecError, match=f"{len(wrong)} bytes where {codec.name} takes {len(data)}"):
            codec.decode(wrong, shape)


@every
@settings(max_examples=50)
@given(count=st.integers(0, 20), seed=st.randoms(use_true_random=False))
def test_any_bytes_are_read_or_refused(codec: Codec, count: int, seed: random.Random) -> None:
    data = bytearray(seed.randbytes(codec.length((count,))))
    head = len(data) - codec.length((count,)) + codec.length((0,))
    for place in range(head, min(head + 4, len(data))):
        data[place] &= seed.choice([0x7F, 0x3F, 0xFF])  # a scale that has a chance
    try:
        found = codec.decode(bytes(data), (count,))
    except CodecError as error:
        assert "\n" not in str(error)
    else:
        assert tuple(found.shape) == (count,)


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
