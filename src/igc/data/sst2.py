"""SST-2: sentences of movie reviews, positive or negative; the paper's text classification.

R. Socher et al., "Recursive deep models for semantic compositionality over a sentiment treebank", EMNLP 2013, as GLUE
distributes it: ``train.tsv`` and ``dev.tsv`` with the header ``sentence<TAB>label``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from igc.data.base import LabelledText, Source
from igc.data.hold_out import ValidationOptions, split_off_validation
from igc.data.tables import read_table
from igc.errors import DataError

_HUB_NAME = "stanfordnlp/sst2"


class Sst2Options(ValidationOptions):
    """Size of the validation split, which is drawn from ``train.tsv``."""

    validation: float = Field(default=1000, ge=0)


def load_sst2(path: Path | None, options: Sst2Options, rng: np.random.Generator) -> Source[LabelledText]:
    """Load SST-2. It knows no clients.

    GLUE's ``dev`` is the split ``"test"``, as in the literature, since GLUE's own test set has no public labels. So it may
    choose nothing, and what chooses is drawn from the training sentences.

    Args:
        path: GLUE's folder, or ``None`` to load from the Hugging Face hub (extra ``hub``).
        options: size of the validation split.
        rng: draws the validation split.

    Raises:
        DataError: a file is missing or malformed, the hub cannot be reached, or nothing is left to train on.
    """
    if path is None:
        train, dev = _from_hub()
    else:
        train, dev = (_read(path / name) for name in ("train.tsv", "dev.tsv"))
    return split_off_validation(train, dev, options, rng)


def _read(file: Path) -> list[LabelledText]:
    examples = []
    for where, row in read_table(file, ("sentence", "label")):
        if row["label"] not in ("0", "1"):
            raise DataError(f"{where}: label must be 0 or 1, not {row['label']!r}")
        examples.append(LabelledText(row["sentence"].strip(), int(row["label"])))
    return examples


def _from_hub() -> tuple[list[LabelledText], list[LabelledText]]:
    try:
        import datasets  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise DataError(
            "SST-2 from the hub needs the package 'datasets': pip install 'intrinsic-gradient-compression[hub]', "
            "or set path to GLUE's folder SST-2 with train.tsv and dev.tsv"
        ) from error
    try:
        loaded = datasets.load_dataset(_HUB_NAME)
    except Exception as error:  # whatever the network, the hub or the cache raise
        why = str(error).strip().split("\n")[0]
        raise DataError(
            f"cannot load '{_HUB_NAME}' from the Hugging Face hub ({why}); set path to GLUE's folder SST-2 instead"
        ) from error
    train, dev = (
        [LabelledText(str(row["sentence"]).strip(), int(row["label"])) for row in loaded[name]]
        for name in ("train", "validation")
    )
    return train, dev
