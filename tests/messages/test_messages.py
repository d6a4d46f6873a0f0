"""Messages against a second writer of the format, and against all that is not a message."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc import messages
from igc.messages import (
    Agreement,
    ChecksumError,
    Due,
    Kind,
    LengthError,
    Message,
    MessageError,
    TensorError,
    check_tensors,
    decode,
    encode,
    peek_round,
)
from support.wire import FLOAT32, HUGE, METHOD, PROJECTION, ROUND, SPACE, UINT32, floats, frame, sealed, tensor

OURS = Agreement(SPACE, PROJECTION, METHOD)
HOSTILE = Path(__file__).parent.parent / "hostile"
# What one tensor costs in Python objects, times the 255 that a message may have.
OVERHEAD = 300_000

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,30}", fullmatch=True)
shapes = st.lists(st.integers(0, 4), max_size=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(shapes)
    size = int(torch.tensor(shape, dtype=torch.int64).prod()) if shape else 1
    if draw(st.booleans()):
        values = draw(st.lists(st.floats(width=32, allow_nan=False), min_size=size, max_size=size))
        return torch.tensor(values, dtype=torch.float32).view(shape)
    dtype = draw(st.sampled_from([torch.int64, torch.int32, torch.uint8]))
    top = min(torch.iinfo(dtype).max, HUGE)
    whole = draw(st.lists(st.integers(0, top), min_size=size, max_size=size))
    return torch.tensor(whole, dtype=dtype).view(shape)


def written(kind: int, number: int, named: dict[str, Tensor]) -> bytes:
    """The same message by the second writer, one number at a time."""
    parts = []
    for name, value in named.items():
        flat = value.reshape(-1).tolist()
        if value.is_floating_point():
            parts.append(tensor(name.encode(), value.shape, floats(*flat), FLOAT32))
        else:
            parts.append(tensor(name.encode(), value.shape, b"".join(v.to_bytes(4, "little") for v in flat), UINT32))
    return frame(*parts, kind=kind, round=number)


@settings(max_examples=150)
@given(
    kind=st.sampled_from(Kind),
    number=st.integers(0, HUGE),
    named=st.dictionaries(names, tensors(), max_size=4),
)
def test_bytes_are_those_of_the_second_writer_and_come_back(kind: Kind, number: int, named: dict[str, Tensor]) -> None:
    payload = encode(Message(kind, number, named), OURS)
    assert payload == written(kind, number, named)
    found = decode(payload, OURS, kind, number)
    assert (found.kind, found.round, list(found.tensors)) == (kind, number, list(named))
    assert peek_round(payload) == number
    for name, value in named.items():
        assert name in found
        assert found[name].shape == value.shape
        assert found[name].dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(found[name], value.to(found[name].dtype))


def test_the_cost_beyond_the_numbers_is_small() -> None:
    message = Message(Kind.UPLOAD, 1, {"sketch": torch.zeros(1000)})
    assert len(encode(message, OURS)) == 4 * 1000 + 32 + 1 + 6 + 2 + 4 + 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_floats_go_as_float32(dtype: torch.dtype) -> None:
    value = torch.tensor([1.5, -2.25], dtype=dtype)
    found = decode(encode(Message(Kind.UPLOAD, 0, {"x": value}), OURS), OURS, Kind.UPLOAD)
    assert torch.equal(found["x"], value.float())


def test_a_decoded_tensor_is_its_own() -> None:
    payload = encode(Message(Kind.UPLOAD, 0, {"x": torch.zeros(3)}), OURS)
    first = decode(payload, OURS, Kind.UPLOAD)
    first["x"].add_(1)
    assert torch.equal(decode(payload, OURS, Kind.UPLOAD)["x"], torch.zeros(3))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"])
def test_any_kind_of_bytes_is_read(wrap: Callable[[bytes], Any]) -> None:
    payload = frame(tensor(b"x", [2], floats(1, 2)))
    assert torch.equal(decode(wrap(payload), OURS, Kind.UPLOAD)["x"], torch.tensor([1.0, 2.0]))


def test_no_round_due_takes_any() -> None:
    assert decode(frame(round=123), OURS, Kind.UPLOAD).round == 123


def lenient(payload: bytes) -> Message:
    return decode(payload, OURS, Kind.UPLOAD)


def strict(payload: bytes) -> Message:
    """All that stands between a stranger's bytes and the aggregate."""
    message = decode(payload, OURS, Kind.UPLOAD, ROUND)
    check_tensors(message, {"sketch": Due((3,))})
    return message


def survives(payload: bytes, read: Callable[[bytes], Message] = lenient) -> bool:
    """Whether bytes that may be anything were taken: no error but ours, no memory beyond what the payload is worth."""
    tracemalloc.start()
    try:
        message = read(payload)
    except MessageError:
        return False
    else:
        assert all(isinstance(value, Tensor) for value in message.tensors.values())
        assert 4 * sum(value.numel() for value in message.tensors.values()) <= len(payload)
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * len(payload) + OVERHEAD


def test_the_frame_that_the_corpus_spoils_is_good() -> None:
    assert torch.equal(strict(frame(tensor(b"sketch", [3], floats(1, 2, 3))))["sketch"], torch.tensor([1.0, 2, 3]))


FILES = sorted(HOSTILE.glob("*.bin"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_hostile_file_raises_the_error_that_it_is_named_for(file: Path) -> None:
    payload = file.read_bytes()
    due = getattr(messages, file.name.split(".")[0])
    with pytest.raises(MessageError) as caught:
        strict(payload)
    assert caught.type is due
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert not survives(payload, strict)


def test_the_corpus_has_a_file_for_every_error_and_a_line_for_every_file() -> None:
    errors = {error.__name__ for error in MessageError.__subclasses__() if error.__module__ == messages.__name__}
    assert {file.name.split(".")[0] for file in FILES} == errors
    readme = (HOSTILE / "README.md").read_text()
    assert [file.name for file in FILES if f"`{file.name}`" not in readme] == []


GOOD = frame(tensor(b"sketch", [3], floats(1, 2, 3)), tensor(b"weight", [], b"\x05\0\0\0", UINT32))


def test_no_single_wrong_byte_goes_unnoticed() -> None:
    for place in range(len(GOOD)):
        for change in (0x01, 0x80, 0xFF):
            wrong = bytearray(GOOD)
            wrong[place] ^= change
            with pytest.raises(MessageError):
                decode(bytes(wrong), OURS, Kind.UPLOAD)


def test_no_cut_and_no_addition_goes_unnoticed() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(MessageError):
            decode(GOOD[:length], OURS, Kind.UPLOAD)
        with pytest.raises(MessageError):
            decode(GOOD[len(GOOD) - length :], OURS, Kind.UPLOAD)
    for extra in (b"\0", GOOD[-4:], GOOD):
        with pytest.raises(ChecksumError):
            decode(GOOD + extra, OURS, Kind.UPLOAD)


@settings(max_examples=200)
@given(edits=st.lists(st.tuples(st.integers(32, len(GOOD) - 5), st.integers(0, 255)), min_size=1, max_size=6))
def test_bytes_changed_under_a_right_checksum_are_read_or_refused(edits: list[tuple[int, int]]) -> None:
    body = bytearray(GOOD[:-4])
    for place, value in edits:
        body[place] = value
    survives(sealed(bytes(body)))


sizes = st.one_of(st.integers(0, 5), st.sampled_from([2**16, 2**30, 2**31, HUGE]))


@st.composite
def nearly_tensors(draw: st.DrawFn) -> bytes:
    """A tensor whose parts are well-formed one by one, and seldom together."""
    name = draw(st.one_of(names.map(str.encode), st.binary(max_size=8)))
    shape = draw(st.lists(sizes, max_size=5))
    product = 4
    for size in shape:
        product *= size
    data = draw(st.binary(max_size=24)) if product > 4000 or draw(st.booleans()) else bytes(product)
    return tensor(name, shape, data, draw(st.sampled_from([0, 0, 1, 1, 2, 255])))


@settings(max_examples=150)
@given(parts=st.lists(nearly_tensors(), max_size=4), count=st.one_of(st.none(), st.integers(0, 255)))
def test_frames_of_any_tensors_are_read_or_refused(parts: list[bytes], count: int | None) -> None:
    survives(frame(*parts, count=count))


@given(junk=st.binary(max_size=200))
def test_any_bytes_under_a_right_header_are_read_or_refused(junk: bytes) -> None:
    survives(frame(junk, count=1))
    assert not survives(junk)


def test_as_many_tensors_as_a_message_can_name() -> None:
    parts = [tensor(f"t{i}".encode(), [0], b"") for i in range(255)]
    assert survives(frame(*parts))


@pytest.mark.parametrize("shape", [[2**30], [HUGE], [2**16, 2**16], [HUGE] * 4])
def test_a_claimed_size_is_never_allocated(shape: list[int]) -> None:
    payload = frame(tensor(b"sketch", shape, bytes(64)))
    with pytest.raises(LengthError):
        lenient(payload)
    assert not survives(payload)  # which measures


@pytest.mark.parametrize("due", [{"x": Due((4,))}, {"y": Due((2**22,))}])
def test_what_is_not_due_is_not_decoded(due: dict[str, Due]) -> None:
    """One bit a number on the wire, 32 in memory."""
    payload = encode(
        Message(Kind.UPLOAD, ROUND, {"x": torch.ones(2**22)}), Agreement(SPACE, PROJECTION, METHOD, "lloyd-1")
    )
    tracemalloc.start()
    try:
        with pytest.raises(TensorError, match=r"due was \(4,\)|'x' where \['y'\] were due"):
            decode(payload, OURS, Kind.UPLOAD, ROUND, due)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(payload) / 10
    found = decode(payload, OURS, Kind.UPLOAD, ROUND, {"x": Due((2**22,))})
    assert torch.equal(found["x"], decode(payload, OURS, Kind.UPLOAD, ROUND)["x"])


def test_errors_say_both_sides() -> None:
    message = Message(Kind.UPLOAD, 5, {"sketch": torch.zeros(4)})
    payload = encode(message, OURS)
    with pytest.raises(messages.RoundError, match="round 5 in round 6"):
        decode(payload, OURS, Kind.UPLOAD, 6)
    with pytest.raises(messages.KindError, match="download"):
        decode(payload, OURS, Kind.DOWNLOAD)
    with pytest.raises(messages.FingerprintError, match=f"{SPACE.hex()}.*{b'different'[:8].hex()}"):
        decode(payload, Agreement(b"differen", PROJECTION, METHOD), Kind.UPLOAD)
    with pytest.raises(TensorError, match=r"'sketch' has shape \(4,\), due was \(3,\)"):
        check_tensors(message, {"sketch": Due((3,))})
    with pytest.raises(TensorError, match=r"\['sketch'\] where \['group', 'sketch'\]"):
        check_tensors(message, {"sketch": Due((4,)), "group": Due(())})


def test_integers_are_finite() -> None:
    check_tensors(Message(Kind.UPLOAD, 0, {"weight": torch.tensor(3)}), {"weight": Due((), whole=True)})
