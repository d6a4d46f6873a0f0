"""CIFAR-10: colour images, 32 x 32, ten classes, from the pickles that its authors publish for Python.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009: 50,000 images to train on in five batches,
10,000 to test. A batch is a dictionary, pickled by Python 2: ``b"data"``, uint8 of shape (n, 3072), each row an image's
red, green and blue planes, and ``b"labels"``, a list of n numbers from 0 to 9.

A pickle is a program: it may call anything that it names. These are read by an unpickler that finds stand-ins for what an
array is made of, and refuses every other name.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from igc.data.base import LabelledImage, Source
from igc.data.hold_out import ValidationOptions, split_off_validation
from igc.errors import DataError

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = "test_batch"
_SHAPE = (3, 32, 32)
_LABELS = 10


def load_cifar10(path: Path | None, options: ValidationOptions, rng: np.random.Generator) -> Source[LabelledImage]:
    """Load the images; the test set is the published one. The source knows no clients.

    Args:
        path: the folder ``cifar-10-batches-py``.
        options: size of the validation split.
        rng: draws the validation split.

    Raises:
        DataError: a file is missing, is no such pickle, or asks for more than arrays of numbers.
    """
    if path is None or not path.is_dir():
        raise DataError(f"no such folder: {path}; set data.path to the folder cifar-10-batches-py")
    train = [image for name in _TRAIN for image in read_batch(path / name)]
    return split_off_validation(train, read_batch(path / _TEST), options, rng)


def read_batch(file: Path) -> list[LabelledImage]:
    """The images of one pickled batch.

    Raises:
        DataError: it cannot be read, or is no such batch.
    """
    try:
        batch = _Unpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}") from error
    except _ForbiddenError as error:
        raise DataError(f"{file} asks for {error}, which no batch of CIFAR-10 needs; it was not run") from error
    except Exception as error:  # a damaged pickle may raise almost anything
        why = str(error).split("\n")[0]
        raise DataError(f"{file} is no readable pickle ({type(error).__name__}: {why})") from error
    images, labels = _checked(batch, file)
    return [LabelledImage(image, label) for image, label in zip(images, labels, strict=True)]


def _checked(batch: Any, file: Path) -> tuple[NDArray[np.uint8], list[int]]:
    parts = batch if isinstance(batch, dict) else {}
    array, labels = parts.get(b"data"), parts.get(b"labels")
    data = array.values if isinstance(array, _Array) else None
    if data is None or not isinstance(labels, list):
        raise DataError(f"{file} is no batch of CIFAR-10: it has no array b'data' with a list b'labels'")
    if data.ndim != 2 or data.shape[1] != math.prod(_SHAPE) or len(data) != len(labels):
        shape = " x ".join(map(str, data.shape))
        raise DataError(f"{file} holds {shape} numbers and {len(labels)} labels; expected n x 3072 and n")
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < _LABELS]
    if wrong:
        raise DataError(f"{file}: label {wrong[0]!r} is not one of 0 to {_LABELS - 1}")
    return data.reshape(-1, *_SHAPE), labels


class _ForbiddenError(pickle.UnpicklingError):
    """A pickle names something that is not needed for arrays of numbers."""


class _Unpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, texts, bytes and arrays of uint8, and calls nothing else, NumPy included."""

    @override
    def find_class(self, module: str, name: str) -> Any:
        found = _STAND_INS.get((module.replace("numpy._core.", "numpy.core."), name))  # NumPy 2 has renamed it
        if found is None:
            raise _ForbiddenError(f"{module}.{name}")
        return found


class _Array:
    """Stands in for an array while its pickle is read: what NumPy pickles is (version, shape, type, order, content)."""

    values: NDArray[np.uint8] | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, _, columns_first, content = state
        order: Literal["C", "F"] = "F" if columns_first else "C"
        # A copy: what is made of bytes in place cannot be written to, which PyTorch warns about.
        self.values = np.frombuffer(content, np.uint8).reshape(shape, order=order).copy()


class _Uint8:
    """Stands in for the type of an array's elements."""

    def __init__(self, kind: bytes | str, *_: Any) -> None:
        if kind not in (b"u1", "u1"):
            raise _ForbiddenError(f"an array of {kind!r}")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, of which a single byte has none."""


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise _ForbiddenError(f"the encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS: Final[Mapping[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Uint8,
    ("_codecs", "encode"): _latin1,
}
