"""Messages: what crosses the wire. Encoding, and strict decoding with one named error per defect.

The format, byte by byte, is in ``docs/messages.md``. A message's length is its cost: nothing else is sent.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from torch import Tensor

from igc.codecs import BY_NUMBER, CODECS, CodecError, NotFiniteScaleError
from igc.codecs.base import Octets
from igc.errors import IgcError
from igc.finite import all_finite

MAGIC: Final = b"IGC"
VERSION: Final = 1
# magic, version, kind, number of tensors, reserved, round, method, space, projection
_HEADER: Final = struct.Struct("<3sBBBHI4s8s8s")
_CHECKSUM: Final = struct.Struct("<I")
_MAX_AXES: Final = 4
_MAX_SPAN: Final = 2**48


class Kind(IntEnum):
    """Which way a message goes."""

    DOWNLOAD = 1
    UPLOAD = 2


class MessageError(IgcError):
    """A message that must not be used; each defect is a subclass."""


class MagicError(MessageError):
    """The bytes are not a message."""


class VersionError(MessageError):
    """The message is of another version of the format."""


class LengthError(MessageError):
    """The message is shorter or longer than it says."""


class ChecksumError(MessageError):
    """The bytes changed on the way."""


class KindError(MessageError):
    """An upload where a download was due, or the reverse."""


class MethodError(MessageError):
    """Sent under another method or other settings of it."""


class FingerprintError(MessageError):
    """Sent by a party whose model has other trainable tensors."""


class ProjectionSpecError(MessageError):
    """Sent by a party with another projection."""


class RoundError(MessageError):
    """Sent for another round."""


class TensorError(MessageError):
    """A tensor is missing, unknown, ill-formed or of the wrong shape."""


class NotFiniteError(MessageError):
    """A tensor holds NaN or infinity."""


@dataclass(frozen=True)
class Agreement:
    """What every party must have in common; its digests travel in every header, each tensor names its codec itself.

    Attributes:
        space: fingerprint of the parameter space, 8 bytes.
        projection: digest of the projection's spec, 8 bytes.
        method: digest of the method and its settings, 4 bytes.
        up: codec of the vectors of uploads.
        down: codec of the vectors of downloads.
    """

    space: bytes
    projection: bytes
    method: bytes
    up: str = "float32"
    down: str = "float32"


@dataclass(frozen=True)
class Message:
    """Named CPU tensors with the round they belong to."""

    kind: Kind
    round: int
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


def encode(message: Message, agreement: Agreement) -> bytes:
    """The bytes of a message.

    Args:
        message: what to send. Whole numbers go as uint32, single real ones as float32, and tensors of real numbers by the
            agreement's codec for that way.
        agreement: the sender's side of it.
    """
    way = agreement.up if message.kind is Kind.UPLOAD else agreement.down
    parts: list[Octets] = [
        _HEADER.pack(
            MAGIC,
            VERSION,
            message.kind,
            len(message.tensors),
            0,
            message.round,
            agreement.method,
            agreement.space,
            agreement.projection,
        )
    ]
    for name, tensor in message.tensors.items():
        codec = CODECS[_codec_name(tensor, way)]
        shape = tuple(tensor.shape)
        label = name.encode("ascii")
        parts.append(
            struct.pack(f"<B{len(label)}sBB{len(shape)}I", len(label), label, codec.number, len(shape), *shape)
        )
        parts.append(codec.encode(tensor))
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([*parts, _CHECKSUM.pack(checksum)])


def as_read(tensors: Mapping[str, Tensor], way: str) -> dict[str, Tensor]:
    """What is read at the other end of tensors that go by a codec: encoding is a function of values alone.

    Args:
        tensors: of a message.
        way: the agreement's codec for its way.

    Raises:
        NotFiniteScaleError: a number is NaN or infinite, or too large for the codec; the other end refuses the message.
    """
    codecs = {name: CODECS[_codec_name(tensor, way)] for name, tensor in tensors.items()}
    return {name: codecs[name].decode(codecs[name].encode(t), tuple(t.shape)) for name, t in tensors.items()}


def _codec_name(tensor: Tensor, way: str) -> str:
    if not tensor.is_floating_point():
        return "uint32"
    return way if tensor.dim() else "float32"


def decode(
    payload: bytes,
    agreement: Agreement,
    kind: Kind,
    round: int | None = None,
    due: Mapping[str, Due] | None = None,
) -> Message:
    """The message in some bytes, or the one error that says what is wrong with them.

    Args:
        payload: bytes from anywhere.
        agreement: the receiver's side of it.
        kind: what is due.
        round: the round that is due; None takes any.
        due: tensors that are; any other is refused before it is decoded, which would take up to 32 times the bytes that it
            came in. None takes all; `check_tensors` looks at what then is there.

    Raises:
        MessageError: a subclass names the first defect found.
    """
    header, body = _open(payload)
    _, _, found_kind, count, _, found_round, method, space, projection = header
    if found_kind != kind:
        raise KindError(f"message kind {found_kind} where {kind.name.lower()} ({int(kind)}) was due")
    if space != agreement.space:
        raise FingerprintError(
            f"sent for parameter space {space.hex()}, ours is {agreement.space.hex()}: the models' trainable tensors differ"
        )
    if method != agreement.method:
        raise MethodError("sent under another method or other settings: both sides need the same recipe")
    if projection != agreement.projection:
        raise ProjectionSpecError(f"sent under projection {projection.hex()}, ours is {agreement.projection.hex()}")
    if round is not None and found_round != round:
        raise RoundError(f"sent for round {found_round} in round {round}")
    return Message(kind, found_round, _read_tensors(body, count, due))


def peek_round(payload: bytes) -> int:
    """The round in a message's header, after the checks that need no agreement."""
    header, _ = _open(payload)
    found: int = header[5]
    return found


class Due(NamedTuple):
    """What a receiver expects of a tensor: its shape, and whether its numbers are whole (indices, counts) or real."""

    shape: tuple[int, ...]
    whole: bool = False


def check_tensors(message: Message, due: Mapping[str, Due]) -> None:
    """Hold a message's tensors to what the receiver expects: these names, shapes and kinds, all of them finite.

    Raises:
        TensorError: a name, a shape or a kind is wrong.
        NotFiniteError: a value is NaN or infinite.
    """
    if message.tensors.keys() != due.keys():
        raise TensorError(f"tensors {sorted(message.tensors)} where {sorted(due)} were due")
    for name, tensor in message.tensors.items():
        shape, whole = due[name]
        _check_shape(name, tuple(tensor.shape), tuple(shape))
        if tensor.is_floating_point() == whole:
            raise TensorError(f"'{name}' must hold {'whole' if whole else 'real'} numbers")
        if tensor.is_floating_point() and not all_finite(tensor):
            raise NotFiniteError(f"'{name}' holds NaN or infinity")


def _check_shape(name: str, shape: tuple[int, ...], due: tuple[int, ...]) -> None:
    if shape != due:
        raise TensorError(f"'{name}' has shape {shape}, due was {due}")


def _open(payload: bytes) -> tuple[tuple[bytes, int, int, int, int, int, bytes, bytes, bytes], memoryview]:
    if payload[:3] != MAGIC:
        raise MagicError(f"not a message: starts with {payload[:3]!r}")
    if len(payload) < 4 or payload[3] != VERSION:
        raise VersionError(f"message format {payload[3] if len(payload) > 3 else '?'}, this version speaks {VERSION}")
    if len(payload) < _HEADER.size + _CHECKSUM.size:
        raise LengthError(f"{len(payload)} bytes; the header alone takes {_HEADER.size + _CHECKSUM.size}")
    body = memoryview(payload)[: -_CHECKSUM.size]
    if zlib.crc32(body) != _CHECKSUM.unpack(payload[-_CHECKSUM.size :])[0]:
        raise ChecksumError("checksum mismatch: the bytes changed on the way, or some are missing")
    header: tuple[bytes, int, int, int, int, int, bytes, bytes, bytes] = _HEADER.unpack(body[: _HEADER.size])
    if header[4] != 0:
        raise VersionError(f"reserved field holds {header[4]}; sent by a newer version")
    return header, body[_HEADER.size :]


def _read_tensors(body: memoryview, count: int, due: Mapping[str, Due] | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    at = 0

    def take(size: int) -> memoryview:
        nonlocal at
        if size > len(body) - at:
            raise LengthError(f"a tensor needs {size} bytes where {len(body) - at} are left")
        at += size
        return body[at - size : at]

    for _ in range(count):
        label = bytes(take(take(1)[0]))
        if not label.isascii() or not label.decode("ascii").isidentifier():
            raise TensorError(f"tensor name {label!r} is not an identifier")
        name = label.decode("ascii")
        if name in tensors:
            raise TensorError(f"tensor '{name}' comes twice")
        number, axes = take(2)
        if number not in BY_NUMBER:
            raise TensorError(f"'{name}' is encoded by codec {number}, which this version does not know")
        if axes > _MAX_AXES:
            raise TensorError(f"'{name}' has {axes} axes; at most {_MAX_AXES} are allowed")
        shape: tuple[int, ...] = struct.unpack(f"<{axes}I", take(4 * axes))
        codec = BY_NUMBER[number]
        # Sizes are compared before anything of that size is allocated; beside a zero, too, they must fit 64 bits.
        if math.prod(shape) > 8 * len(body) or math.prod(size or 1 for size in shape) > _MAX_SPAN:
            raise LengthError(f"'{name}' claims shape {shape} in a message of {len(body)} bytes")
        if due is not None:
            if name not in due:
                raise TensorError(f"tensor '{name}' where {sorted(due)} were due")
            _check_shape(name, shape, tuple(due[name].shape))
        data = take(codec.length(shape))
        try:
            tensors[name] = codec.decode(data, shape)
        except NotFiniteScaleError as error:
            raise NotFiniteError(f"'{name}' holds NaN or infinity ({error})") from None
        except CodecError as error:
            raise TensorError(f"'{name}': {error}") from None
    if at != len(body):
        raise LengthError(f"{len(body) - at} bytes are left over after the last tensor")
    return tensors
