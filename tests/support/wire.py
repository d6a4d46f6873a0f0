"""The message format, written a second time from its description with `struct` alone, and a corpus of what it forbids.

``python -m support.wire``, run in ``tests``, writes the corpus into ``tests/hostile``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

SPACE, PROJECTION, METHOD = b"space-id", b"projecti", b"meth"
UPLOAD, ROUND = 2, 7
FLOAT32, UINT32, FLOAT16, INT4, LLOYD_1, LLOYD_4 = 0, 1, 2, 5, 13, 16
HUGE = 2**32 - 1


def tensor(
    name: bytes,
    shape: Sequence[int],
    data: bytes,
    codec: int = FLOAT32,
    axes: int | None = None,
    label: int | None = None,
) -> bytes:
    """One tensor: length of the name, name, codec, number of axes, sizes, data; ``axes`` and ``label`` can lie."""
    head = bytes([len(name) if label is None else label]) + name
    head += bytes([codec, len(shape) if axes is None else axes])
    return head + b"".join(size.to_bytes(4, "little") for size in shape) + data


def sealed(body: bytes) -> bytes:
    """Some bytes with their right checksum."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def frame(
    *tensors: bytes,
    magic: bytes = b"IGC",
    version: int = 1,
    kind: int = UPLOAD,
    count: int | None = None,
    reserved: int = 0,
    round: int = ROUND,
    method: bytes = METHOD,
    space: bytes = SPACE,
    projection: bytes = PROJECTION,
) -> bytes:
    """A message of these tensors; any field can lie."""
    head = magic + bytes([version, kind, len(tensors) if count is None else count])
    head += reserved.to_bytes(2, "little") + round.to_bytes(4, "little") + method + space + projection
    return sealed(head + b"".join(tensors))


def floats(*values: float) -> bytes:
    """Little-endian IEEE 754 binary32."""
    return struct.pack(f"<{len(values)}f", *values)


def hostile() -> dict[str, tuple[bytes, str]]:
    """File name -> (bytes, what is wrong with them); the part of a name before the full stop is the error due."""
    good = tensor(b"sketch", [3], floats(1, 2, 3))
    whole = frame(good)
    flipped = bytearray(whole)
    flipped[45] ^= 0x10
    label = b"a" * 200
    return {
        "MagicError.empty": (b"", "no byte at all"),
        "MagicError.two-bytes": (b"IG", "ends within the magic"),
        "MagicError.text": (b"<html><body>502 Bad Gateway</body></html>\n", "a proxy's answer"),
        "MagicError.zip": (b"PK\x03\x04" + bytes(60), "the start of a zip file, as torch.save writes"),
        "MagicError.lower-case": (frame(good, magic=b"igc"), "right but for the case of the magic"),
        "VersionError.magic-alone": (b"IGC", "ends after the magic"),
        "VersionError.zero": (frame(good, version=0), "version 0"),
        "VersionError.two": (frame(good, version=2), "a version that does not exist yet"),
        "VersionError.reserved": (frame(good, reserved=1), "a reserved bit is set"),
        "LengthError.header-cut": (whole[:20], "ends within the header"),
        "LengthError.no-checksum": (whole[:32], "ends where the checksum is due"),
        "ChecksumError.last-byte-missing": (whole[:-1], "cut by one byte"),
        "ChecksumError.one-byte-more": (whole + b"\0", "longer by one byte"),
        "ChecksumError.one-bit": (bytes(flipped), "one bit of a value is flipped"),
        "ChecksumError.zeroed": (whole[:-4] + bytes(4), "the checksum is zeros"),
        "KindError.download": (frame(good, kind=1), "a download where an upload is due"),
        "KindError.unknown": (frame(good, kind=9), "a kind that does not exist"),
        "FingerprintError.other-model": (frame(good, space=b"another!"), "another parameter space"),
        "MethodError.other-method": (frame(good, method=b"fedX"), "another method"),
        "ProjectionSpecError.other-seed": (frame(good, projection=b"another!"), "another projection"),
        "RoundError.late": (frame(good, round=ROUND - 1), "the round before"),
        "RoundError.far": (frame(good, round=HUGE), "the last round that fits the field"),
        "LengthError.count-too-high": (frame(good, count=2), "announces two tensors, has one"),
        "LengthError.count-255": (frame(good, count=255), "announces 255 tensors, has one"),
        "LengthError.count-too-low": (frame(good, good, count=1), "announces one tensor, has two"),
        "LengthError.left-over": (frame(good + b"\0\0\0"), "three bytes after the last tensor"),
        "LengthError.data-cut": (frame(tensor(b"sketch", [3], floats(1, 2))), "three numbers announced, two there"),
        "LengthError.name-beyond-the-end": (frame(tensor(b"s", [], b"", label=255)), "a name of 255 bytes, cut"),
        "LengthError.shape-cut": (frame(tensor(b"sketch", [3], b"", axes=4)), "four axes announced, one there"),
        "LengthError.four-gigabytes": (frame(tensor(b"sketch", [2**30], b"")), "claims 2^30 numbers, has none"),
        "LengthError.wraps-64-bits": (
            frame(tensor(b"sketch", [2**31, 2**31, 4], b"")),
            "2^64 numbers: 0 if it wrapped",
        ),
        "LengthError.wraps-32-bits": (frame(tensor(b"sketch", [2**30, 4], b"")), "2^32 numbers: 0 if it wrapped"),
        "LengthError.empty-but-huge": (
            frame(tensor(b"sketch", [0, HUGE, HUGE, HUGE], b"")),
            "no element, but sizes whose product exceeds 64 bits",
        ),
        "LengthError.huge-but-empty": (frame(tensor(b"sketch", [HUGE, HUGE, HUGE, 0], b"")), "the same, zero last"),
        "TensorError.twice": (frame(good, good), "one name for two tensors"),
        "TensorError.unknown-codec": (frame(tensor(b"sketch", [3], floats(1, 2, 3), codec=255)), "codec 255"),
        "TensorError.five-axes": (frame(tensor(b"sketch", [1] * 5, floats(1))), "five axes"),
        "TensorError.255-axes": (frame(tensor(b"sketch", [1] * 255, floats(1))), "255 axes"),
        "TensorError.no-name": (frame(tensor(b"", [3], floats(1, 2, 3))), "an empty name"),
        "TensorError.path-for-a-name": (frame(tensor(b"../../sketch", [3], floats(1, 2, 3))), "a path for a name"),
        "TensorError.name-with-a-line": (frame(tensor(b"sketch\n", [3], floats(1, 2, 3))), "a name with a line break"),
        "TensorError.name-with-a-zero": (frame(tensor(b"ske\0tch", [3], floats(1, 2, 3))), "a name with a zero byte"),
        "TensorError.name-not-ascii": (frame(tensor("skétch".encode(), [3], floats(1, 2, 3))), "a name in UTF-8"),
        "TensorError.name-not-utf8": (frame(tensor(b"\xff\xfe", [3], floats(1, 2, 3))), "a name in no encoding"),
        "TensorError.other-name": (frame(tensor(b"sketches", [3], floats(1, 2, 3))), "not the tensor that is due"),
        "TensorError.long-name": (frame(tensor(label, [3], floats(1, 2, 3))), "a name of 200 letters"),
        "TensorError.one-more": (frame(good, tensor(b"extra", [], floats(1))), "one tensor more than is due"),
        "TensorError.none": (frame(), "no tensor"),
        "TensorError.too-long": (frame(tensor(b"sketch", [4], floats(1, 2, 3, 4))), "four numbers where three are due"),
        "TensorError.another-axis": (frame(tensor(b"sketch", [3, 1], floats(1, 2, 3))), "a column, not a vector"),
        "TensorError.empty": (frame(tensor(b"sketch", [0], b"")), "a vector without elements"),
        "NotFiniteError.nan": (frame(tensor(b"sketch", [3], floats(1, float("nan"), 3))), "NaN"),
        "NotFiniteError.signalling-nan": (
            frame(tensor(b"sketch", [3], floats(1, 2) + b"\x01\0\xa0\x7f")),
            "a signalling NaN",
        ),
        "NotFiniteError.infinity": (frame(tensor(b"sketch", [3], floats(float("inf"), 2, 3))), "infinity"),
        "NotFiniteError.minus-infinity": (frame(tensor(b"sketch", [3], floats(1, 2, float("-inf")))), "-infinity"),
        "NotFiniteError.binary16": (
            frame(tensor(b"sketch", [3], bytes.fromhex("00 0000007c0000"), FLOAT16)),
            "binary16",
        ),
        "NotFiniteError.scale-nan": (
            frame(tensor(b"sketch", [3], floats(float("nan")) + b"\0\0", INT4)),
            "levels of NaN",
        ),
        "NotFiniteError.scale-infinity": (
            frame(tensor(b"sketch", [3], floats(float("inf")) + b"\5", LLOYD_1)),
            "signs of infinity",
        ),
        "NotFiniteError.scale-overflows": (
            frame(tensor(b"sketch", [3], floats(3e38) + b"\xff\x0f", LLOYD_4)),
            "a finite scale, times 2.7",
        ),
        "TensorError.exponent": (frame(tensor(b"sketch", [3], b"\x7f" + bytes(6), FLOAT16)), "2^127 times binary16"),
        "TensorError.scale-negative": (frame(tensor(b"sketch", [3], floats(-1) + b"\5", LLOYD_1)), "a scale of -1"),
        "TensorError.level-below-the-least": (
            frame(tensor(b"sketch", [3], floats(1) + b"\x80\0", INT4)),
            "level -8 where there are seven on either side",
        ),
        "TensorError.bits-left-over": (
            frame(tensor(b"sketch", [3], floats(1) + b"\x0d", LLOYD_1)),
            "a fourth sign of three numbers",
        ),
        "LengthError.signs-cut": (frame(tensor(b"sketch", [9], floats(1) + b"\5", LLOYD_1)), "nine signs in a byte"),
        "LengthError.gigabits": (frame(tensor(b"sketch", [2**30], floats(1), LLOYD_1)), "claims 2^30 signs, has none"),
    }


def write(folder: Path) -> None:
    """Write the corpus and its README."""
    lines = [
        "# Hostile messages",
        "",
        "Files that must never become a message; `tests/messages/test_messages.py` walks them. The part of a name",
        "before the first full stop is the error that is due, from a receiver who expects an upload of round 7 with one",
        "float32 vector `sketch` of three finite numbers. Written by `python -m support.wire`, run in `tests`; a defect",
        "found in the wild is added there, and stays.",
        "",
        "| file | what is wrong |",
        "|---|---|",
    ]
    for name, (data, wrong) in hostile().items():
        (folder / f"{name}.bin").write_bytes(data)
        lines.append(f"| `{name}.bin` | {wrong} |")
    (folder / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write(Path(__file__).parent.parent / "hostile")
