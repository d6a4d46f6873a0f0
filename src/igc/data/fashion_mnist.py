"""Fashion-MNIST: grey images of clothes, 28 x 28, ten classes; and whatever else comes as MNIST's four IDX files.

H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
2017 (arXiv 1708.07747): 60,000 images to train on, 10,000 to test. From Debian's package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np

from igc.data.base import LabelledImage, Source
from igc.data.hold_out import ValidationOptions, split_off_validation
from igc.data.idx import read_idx
from igc.errors import DataError
from igc.fetch import fetch_debian
from igc.fetch.packages import FASHION_MNIST

_PARTS: Final = {"train": "train", "t10k": "(t10k|test)"}


def load_fashion_mnist(
    path: Path | None, options: ValidationOptions, rng: np.random.Generator
) -> Source[LabelledImage]:
    """Load the images; the test set is the published one. The source knows no clients.

    Args:
        path: a folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same for ``t10k``, each with
            or without ``.gz``, or of names like those, as ``emnist-letters-test-images.idx3-ubyte``; ``None``: where
            Debian's package is installed, or else fetch that.
        options: size of the validation split.
        rng: draws the validation split.

    Raises:
        DataError: a file is missing or malformed, or images and labels do not fit.
        FetchError: the package cannot be fetched.
    """
    folder = path or fetch_debian(FASHION_MNIST)
    train, test = _read(folder, "train"), _read(folder, "t10k")
    return split_off_validation(train, test, options, rng)


def _read(folder: Path, part: str) -> list[LabelledImage]:
    images_file, labels_file = _find(folder, part, "images", 3), _find(folder, part, "labels", 1)
    images, labels = read_idx(images_file), read_idx(labels_file)
    for file, array, axes in ((images_file, images, 3), (labels_file, labels, 1)):
        if array.ndim != axes or array.dtype != np.uint8:
            shape = " x ".join(map(str, array.shape))
            raise DataError(f"{file} holds {array.dtype} of {shape}; expected uint8 along {axes} axes")
    if len(images) != len(labels):
        raise DataError(f"{images_file} holds {len(images)} images, but {labels_file} {len(labels)} labels")
    # One channel. Images are views of one array, so that 60,000 of them cost little.
    return [LabelledImage(image, label) for image, label in zip(images[:, None], labels.tolist(), strict=True)]


def _find(folder: Path, part: str, what: str, axes: int) -> Path:
    """The file of MNIST's name, or the only one whose name is like it."""
    name = f"{part}-{what}-idx{axes}-ubyte"
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    like = re.compile(rf"(?i)(.*[-_.])?{_PARTS[part]}[-_.]{what}[-_.]idx{axes}[-_.]ubyte(\.gz)?")
    found = [file for file in folder.glob("*") if file.is_file() and like.fullmatch(file.name)]
    if len(found) > 1:
        names = ", ".join(sorted(file.name for file in found))
        raise DataError(f"{folder} has several files like {name}: {names}; leave one, or give it that name")
    if not found:
        raise DataError(
            f"{folder} has neither {name} nor {name}.gz, nor a file of such a name; set data.path to a folder with MNIST's"
            " four IDX files"
        )
    return found[0]
