"""SST-2: sentences of movie reviews, positive or negative; the paper's text classification.

R. Socher et al., "Recursive deep models for semantic compositionality over a sentiment treebank", EMNLP 2013, as GLUE
distributes it: ``train.tsv`` and ``dev.tsv`` with the header ``sentence<TAB>label``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from igc.data.base import LabelledText, Source
from igc.data.tables import read_table
from igc.errors import DataError

_HUB_NAME = "stanfordnlp/sst2"


class Sst2Options(BaseModel):
    """SST-2 has none: its splits are given."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def load_sst2(path: Path | None, options: Sst2Options, rng: np.random.Generator) -> Source[LabelledText]:  # noqa: ARG001
    """Load SST-2; GLUE's ``dev`` is the split ``"validation"``. Its test set has no public labels. It knows no clients.

    Args:
        path: GLUE's folder, or ``None`` to load from the Hugging Face hub (extra ``hub``).
        options: none.
        rng: not used; the splits are given.

    Raises:
        DataError: a file is missing or malformed, or the hub cannot be reached.
    """
    if path is None:
        train, validation = _from_hub()
    else:
        train, validation = (_read(path / name) for name in ("train.tsv", "dev.tsv"))
    return Source(train, None, {"validation": validation})


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
    train, validation = (
        [LabelledText(str(row["sentence"]).strip(), int(row["label"])) for row in loaded[name]]
        for name in ("train", "validation")
    )
    return train, validation
