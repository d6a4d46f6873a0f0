"""Images: IDX files and CIFAR-10's pickles, whole, damaged and hostile."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from igc.data import DataSettings, LabelledImage, load_dataset
from igc.data.cifar10 import read_batch
from igc.data.idx import read_idx
from igc.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 3, 3), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 4


def idx(array: NDArray[Any], code: int) -> bytes:
    """The format by hand: zero, zero, type, axes, sizes, content; all big-endian."""
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist(folder: Path, suffix: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    pack: Callable[[bytes], bytes] = gzip.compress if suffix else bytes
    for prefix, part in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(IMAGES[part], 8)))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS[part], 8)))
    return folder


def load(source: str, path: Path, **options: Any) -> Any:
    return load_dataset(DataSettings(source=source, path=path, clients=2, options={"validation": 2, **options}), 0)


def key(image: LabelledImage) -> tuple[bytes, int]:
    return image.pixels.tobytes(), image.label


@pytest.mark.parametrize(
    ("dtype", "code"), [("u1", 0x08), ("i1", 0x09), ("i2", 0x0B), ("i4", 0x0C), ("f4", 0x0D), ("f8", 0x0E)]
)
def test_idx_files_of_every_type_read_back(dtype: str, code: int, tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for file, content in (("plain", idx(array, code)), ("zipped", gzip.compress(idx(array, code)))):
        (tmp_path / file).write_bytes(content)
        found = read_idx(tmp_path / file)
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, array)


WHOLE = idx(IMAGES, 8)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x07\x01" + WHOLE[4:], "begins with 00 00 07 01"),
        (b"\x89PNG" + WHOLE[4:], "begins with 89 50 4e 47"),
        (WHOLE[:9], "ends within its header"),
        (WHOLE[:-1], "12 x 3 x 3 elements take 124"),
        (WHOLE + b"\0", "holds 125 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "elements take"),  # sizes that no machine has memory for
        (gzip.compress(WHOLE)[:-9], "cannot read"),
    ],
)
def test_a_damaged_idx_file_is_refused_in_one_line(content: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=fault) as error:
        read_idx(tmp_path / "file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files_is_dealt_out_whole(suffix: str, tmp_path: Path) -> None:
    data = load("fashion-mnist", mnist(tmp_path, suffix))
    training = [image for examples in data.clients.values() for image in examples]
    assert len(data.evaluation["validation"]) == 2
    expected = [(image.tobytes(), int(label)) for image, label in zip(IMAGES, LABELS, strict=True)]
    assert sorted(map(key, [*training, *data.evaluation["validation"]])) == sorted(expected[:8])
    assert list(map(key, data.evaluation["test"])) == expected[8:]
    assert {image.pixels.shape for image in training} == {(1, 3, 3)}


@pytest.mark.parametrize(
    "called",
    ["{part}-images.idx3-ubyte", "emnist-letters-{part}-images-idx3-ubyte.gz", "Fashion.{part}_images.idx3.ubyte"],
)
def test_other_names_of_the_four_files_will_do(called: str, tmp_path: Path) -> None:
    expected = load("fashion-mnist", mnist(tmp_path / "mnist"))
    folder = mnist(tmp_path / "other")
    for file in list(folder.iterdir()):
        part, what = file.name.split("-")[:2]
        name = called.format(part="test" if part == "t10k" else part)
        if what == "labels":
            name = name.replace("images", "labels").replace("idx3", "idx1")
        file.rename(folder / name)
    found = load("fashion-mnist", folder)
    assert [key(image) for image in found.evaluation["test"]] == [key(image) for image in expected.evaluation["test"]]
    (folder / "byclass-train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match=r"several files like train-labels-idx1-ubyte: .*byclass.*; leave one"):
        load("fashion-mnist", folder)


def test_folders_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    folder = mnist(tmp_path)
    labels = folder / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(LABELS[:7], 8))
    with pytest.raises(DataError, match=r"holds 8 images, but .* 7 labels"):
        load("fashion-mnist", folder)
    labels.write_bytes(idx(IMAGES[:8], 8))
    with pytest.raises(DataError, match="uint8 of 8 x 3 x 3; expected uint8 along 1 axes"):
        load("fashion-mnist", folder)
    labels.unlink()
    with pytest.raises(DataError, match=r"neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte\.gz"):
        load("fashion-mnist", folder)


PIXELS = RNG.integers(0, 256, (6, 3072), dtype=np.uint8)


def batch(data: Any = PIXELS, labels: Any = (0, 9, 3, 3, 1, 2), protocol: int = 2) -> bytes:
    return pickle.dumps({b"data": data, b"labels": list(labels), b"batch_label": b"testing"}, protocol=protocol)


def cifar(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(batch(PIXELS + np.uint8(i)))
    return folder


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])  # the published files are of protocol 2
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar_batches_read_back(protocol: int, order: Any, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(batch(np.array(PIXELS, order=order), protocol=protocol))
    found = read_batch(tmp_path / "batch")
    np.testing.assert_array_equal(np.stack([image.pixels for image in found]), PIXELS.reshape(6, 3, 32, 32))
    assert [image.label for image in found] == [0, 9, 3, 3, 1, 2]


def test_a_cifar_folder_is_its_five_batches_and_its_test_batch(tmp_path: Path) -> None:
    data = load("cifar10", cifar(tmp_path))
    assert sum(map(len, data.clients.values())) + len(data.evaluation["validation"]) == 30
    test = np.stack([image.pixels.reshape(-1) for image in data.evaluation["test"]])
    np.testing.assert_array_equal(test, PIXELS + np.uint8(5))


class Evil:
    """What a pickle may do."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_that_calls_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps({b"data": Evil(tmp_path / "trace"), b"labels": []}))
    with pytest.raises(DataError, match=r"asks for posix\.mkdir, which no batch of CIFAR-10 needs; it was not run"):
        read_batch(tmp_path / "batch")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "no readable pickle"),
        (batch()[:-20], "no readable pickle"),
        (pickle.dumps([1, 2]), "no batch of CIFAR-10"),
        (batch(PIXELS[:, :100]), "holds 6 x 100 numbers and 6 labels"),
        (batch(labels=(1, 2)), "holds 6 x 3072 numbers and 2 labels"),
        (batch(labels=(0, 1, 2, 3, 4, 10)), "label 10 is not one of 0 to 9"),
        (batch(PIXELS.astype(np.float32)), "an array of"),
    ],
)
def test_a_damaged_batch_is_refused_in_one_line(content: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(DataError, match=fault) as error:
        read_batch(tmp_path / "batch")
    assert "\n" not in str(error.value)


@pytest.mark.data
def test_fashion_mnist_is_what_its_authors_describe(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset(DataSettings(source="fashion-mnist", clients=10), 0)
    training = [image for examples in data.clients.values() for image in examples]
    assert len(training) + len(data.evaluation["validation"]) == 60_000
    test = data.evaluation["test"]
    assert np.bincount([image.label for image in test]).tolist() == [1000] * 10
    assert {image.pixels.shape for image in test} == {(1, 28, 28)}
    assert np.mean([image.pixels.mean() for image in test]) / 255 == pytest.approx(0.2868, abs=1e-3)
