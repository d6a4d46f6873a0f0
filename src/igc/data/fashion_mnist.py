"""Fashion-MNIST: grey images of clothes, 28 x 28, ten classes; and whatever else comes as MNIST's four IDX files.

H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
2017 (arXiv 1708.07747): 60,000 images to train on, 10,000 to test. From Debian's package ``dataset-fashion-mnist``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from igc.data.base import LabelledImage, Source
from igc.data.hold_out import ValidationOptions, split_off_validation
from igc.data.idx import read_idx
from igc.errors import DataError
from igc.fetch import fetch_debian
from igc.fetch.packages import FASHION_MNIST


def load_fashion_mnist(
    path: Path | None, options: ValidationOptions, rng: np.random.Generator
) -> Source[LabelledImage]:
    """Load the images; the test set is the published one. The source knows no clients.

    Args:
        path: a folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same for ``t10k``, each with
            or without ``.gz``; ``None``: where Debian's package is installed, or else fetch that.
        options: size of the validation split.
        rng: draws the validation split.

    Raises:
        DataError: a file is missing or malformed, or images and labels do not fit.
        FetchError: the package cannot be fetched.
    """
    folder = path or fetch_debian(FASHION_MNIST)
    train, test = (_read(folder, prefix) for prefix in ("train", "t10k"))
    return split_off_validation(train, test, options, rng)


def _read(folder: Path, prefix: str) -> list[LabelledImage]:
    images_file, labels_file = (
        _find(folder, f"{prefix}-images-idx3-ubyte"),
        _find(folder, f"{prefix}-labels-idx1-ubyte"),
    )
    images, labels = read_idx(images_file), read_idx(labels_file)
    for file, array, axes in ((images_file, images, 3), (labels_file, labels, 1)):
        if array.ndim != axes or array.dtype != np.uint8:
            shape = " x ".join(map(str, array.shape))
            raise DataError(f"{file} holds {array.dtype} of {shape}; expected uint8 along {axes} axes")
    if len(images) != len(labels):
        raise DataError(f"{images_file} holds {len(images)} images, but {labels_file} {len(labels)} labels")
    # One channel. Images are views of one array, so that 60,000 of them cost little.
    return [LabelledImage(image, label) for image, label in zip(images[:, None], labels.tolist(), strict=True)]


def _find(folder: Path, name: str) -> Path:
    candidates = [folder / name, folder / f"{name}.gz"]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise DataError(
            f"{folder} has neither {name} nor {name}.gz; set data.path to a folder with MNIST's four IDX files"
        )
    return found
