"""Read IDX files, the format of MNIST: a magic number, sizes, and an array, all big-endian.

Specified in Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", section "File formats"::

    0 0 TYPE AXES   magic: two zero bytes, the type of the elements, the number of axes
    4 bytes         length of each axis, uint32
    ...             elements, the last axis fastest
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from igc.errors import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read_idx(file: Path) -> NDArray[Any]:
    """The array in an IDX file, gzipped or not, whatever the file is called.

    Returns:
        A new array of the file's shape, in its type and the machine's byte order.

    Raises:
        DataError: the file cannot be read, is no IDX file, or is shorter or longer than its header says.
    """
    try:
        content = file.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:  # a gzip file that is cut or damaged raises any of these
        raise DataError(f"cannot read {file}: {error}") from error
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not magic[3]:
        raise DataError(f"{file} is no IDX file: it begins with {magic.hex(' ') or 'nothing'}, not 00 00 TYPE AXES")
    start = 4 + 4 * magic[3]
    if len(content) < start:
        raise DataError(f"{file} ends within its header: {len(content)} bytes of {start}")
    shape = struct.unpack(f">{magic[3]}I", content[4:start])
    dtype = np.dtype(_TYPES[magic[2]])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        size = " x ".join(map(str, shape))
        raise DataError(f"{file} holds {len(content)} bytes uncompressed, but {size} elements take {expected}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
