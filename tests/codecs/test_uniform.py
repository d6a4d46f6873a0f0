"""int8, int4 and QSGD: levels by hand, no bias, and the variance that the papers' algebra gives."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.codecs import CODECS, CodecError, NotFiniteScaleError
from igc.codecs.uniform import BUCKET, Uniform
from support.noise import errors, normalised_error, standard_errors
from support.strategies import vector

UNIFORM = {name: codec for name, codec in CODECS.items() if isinstance(codec, Uniform)}
each = pytest.mark.parametrize("codec", UNIFORM.values(), ids=UNIFORM.keys())


@pytest.mark.parametrize(
    ("name", "values", "data"),
    [
        # The largest magnitude is the scale, and here the numbers are levels: nothing to round.
        ("int8", [127, -127, 1, -1, 0], "00 00 fe 42  7f 81 01 ff 00"),
        ("int4", [7, -7, 3, 0, -1], "00 00 e0 40  97 03 0f"),
        # sqrt(2^2 + 3^2 + 6^2) = 7 = s.
        ("qsgd-4", [2, -3, 6], "00 00 e0 40  d2 06"),
        ("qsgd-2", [0, -3, 0, 0, 0], "00 00 40 40  0c 00"),
        ("qsgd-8", [-2, 0], "00 00 00 40  81 00"),
        ("qsgd-8", [0, 0], "00 00 00 00  00 00"),
    ],
)
def test_by_hand(name: str, values: list[int], data: str) -> None:
    value = torch.tensor(values, dtype=torch.float32)
    assert CODECS[name].encode(value) == bytes.fromhex(data)
    torch.testing.assert_close(CODECS[name].decode(bytes.fromhex(data), (len(values),)), value)


def test_scales_come_first_and_buckets_do_not_mix() -> None:
    value = torch.cat((torch.full((BUCKET,), 1.0), torch.full((BUCKET,), -1e-6), torch.full((3,), 1e6)))
    data = CODECS["int8"].encode(value)
    assert data[:12] == struct.pack("<fff", 1.0, 1e-6, 1e6)
    assert data[12:] == b"\x7f" * BUCKET + b"\x81" * BUCKET + b"\x7f" * 3
    assert torch.equal(CODECS["int8"].decode(data, (len(value),)), value)


@each
@settings(max_examples=40)
@given(values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30))
def test_a_number_becomes_one_of_the_two_levels_beside_it(codec: Uniform, values: list[float]) -> None:
    value = torch.tensor(values, dtype=torch.float32)
    found = codec.decode(codec.encode(value), (len(values),)).double()
    step = struct.unpack("<f", codec.encode(value)[:4])[0] / codec.levels
    assert bool(((found - value.double()).abs() <= step * (1 + 1e-5)).all())


@each
def test_no_bias(codec: Uniform) -> None:
    value = vector(60, 5).exp()
    found = errors(codec, value, 800)
    moving = found.std(0) > 0  # the largest number is a level of its own
    assert int(moving.sum()) >= 59
    assert float(standard_errors(found[:, moving]).abs().max()) < 4.5  # of 60
    assert float(found.mean(0).norm()) < 2 * float(found.norm(dim=1).mean()) / 800**0.5


@each
@pytest.mark.parametrize("kind", ["normal", "lognormal", "sparse", "two values"])
def test_the_variance_is_that_of_rounding_and_within_the_bound_of_qsgd(codec: Uniform, kind: str) -> None:
    n = 200
    value = vector(n, 7)
    if kind == "lognormal":
        value = (2 * value).exp()
    if kind == "sparse":
        value[3:] = 0
    if kind == "two values":
        value = torch.tensor([1.0, 0.5]).repeat(n // 2)
    samples = errors(codec, value, 300).square().sum(1)
    step = struct.unpack("<f", codec.encode(value)[:4])[0] / codec.levels
    share = (value.double() / step) % 1
    expected = float((share * (1 - share)).sum()) * step**2
    assert abs(float(samples.mean()) - expected) <= 4 * float(samples.std()) / 300**0.5 + 1e-4 * step**2
    if codec.name.startswith("qsgd"):
        s = codec.levels
        assert expected <= min(n / s**2, n**0.5 / s) * float(value.double().square().sum())


@pytest.mark.parametrize(
    ("name", "error"), [("int8", 1.1e-4), ("int4", 0.036), ("qsgd-8", 0.0053), ("qsgd-4", 1.6), ("qsgd-2", 17)]
)
def test_the_errors_on_normal_numbers_are_those_of_the_docs(name: str, error: float) -> None:
    assert normalised_error(CODECS[name], vector(2**17, 1)) == pytest.approx(error, rel=0.03)


@each
def test_the_level_below_the_least_is_refused(codec: Uniform) -> None:
    value = torch.full((9,), 1.0)
    data = bytearray(codec.encode(value))
    data[4] = {8: 0x80, 4: 0x08, 2: 0x02}[codec.bits]
    with pytest.raises(CodecError, match=f"number 0 has level {-codec.levels - 1}"):
        codec.decode(bytes(data), (9,))


@each
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf"), -1.0, -0.0])
def test_a_scale_that_is_none_is_refused(codec: Uniform, scale: float) -> None:
    data = struct.pack("<f", 1.0) + struct.pack("<f", scale) + codec.encode(torch.ones(BUCKET + 1))[8:]
    with pytest.raises(CodecError, match="scale 1 is") as caught:
        codec.decode(data, (BUCKET + 1,))
    assert isinstance(caught.value, NotFiniteScaleError) is (abs(scale) != 1 and scale != 0)


def test_equal_tensors_have_equal_noise_and_others_do_not() -> None:
    def noise(value: Tensor) -> Tensor:
        return CODECS["int4"].decode(CODECS["int4"].encode(value), (BUCKET,)) - value

    one, other = vector(BUCKET, 1), vector(BUCKET, 1)
    assert torch.equal(noise(one), noise(other))
    other[0] += 1e-6
    assert float((noise(one) != noise(other)).float().mean()) > 0.1
