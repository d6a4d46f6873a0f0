"""Your own files: labelled texts in a table, or texts by client."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from igc.data.base import LabelledText, Source, Text
from igc.data.hold_out import HoldOutOptions, LabelledFileOptions, hold_out, split
from igc.data.tables import Row, read_table, read_text
from igc.errors import DataError


def load_labelled_file(
    path: Path | None, options: LabelledFileOptions, rng: np.random.Generator
) -> Source[LabelledText]:
    """Load a CSV, TSV or JSONL file with columns ``text``, ``label`` and, if it knows clients, ``client``.

    Labels are whole numbers from 0, or names, which are numbered as ``options.labels`` says or in alphabetical order.

    Raises:
        DataError: the file cannot be read or a row is malformed; names file and line.
    """
    file = _given(path)
    rows = read_table(file, ("text", "label"))
    numbers = number_labels(rows) if options.labels is None else _as_told(rows, options.labels)
    examples = [LabelledText(row["text"].strip(), number) for (_, row), number in zip(rows, numbers, strict=True)]
    clients = [row.get("client", "").strip() for _, row in rows]
    if any(clients) and not all(clients):
        raise DataError(f"{rows[clients.index('')][0]}: column 'client' is empty here, but not in other rows")
    kept, evaluation = split(examples, options, rng)
    owners = [clients[i] for i in kept] if all(clients) else None
    return Source([examples[i] for i in kept], owners, evaluation)


def number_labels(rows: list[Row]) -> list[int]:
    """The label of each row as a number from 0, none left out in between.

    Raises:
        DataError: labels are numbers, but not 0, 1, ..., n - 1.
    """
    names = [row["label"].strip() for _, row in rows]
    distinct = set(names)
    if not all(name.removeprefix("-").isdecimal() for name in distinct):
        order = {name: number for number, name in enumerate(sorted(distinct))}
        return [order[name] for name in names]
    numbers = [int(name) for name in names]
    allowed = range(len(set(numbers)))
    for (where, _), number in zip(rows, numbers, strict=True):
        if number not in allowed:
            raise DataError(
                f"{where}: label {number}; the file's {len(allowed)} labels must be 0 to {len(allowed) - 1}"
            )
    return numbers


def _as_told(rows: list[Row], labels: tuple[str, ...]) -> list[int]:
    """The label of each row by its place in a list, or as the number that it is where the list is empty."""
    place = {name: number for number, name in enumerate(labels)}
    numbers = []
    for where, row in rows:
        name = row["label"].strip()
        if name not in place and not (not labels and name.isdecimal()):
            known = (
                f"labels = {list(labels)} in data.options does not have it"
                if labels
                else (
                    "a file that is one of several has numbers for labels, or the recipe says how names are numbered, as by"
                    ' data.options.labels = ["negative", "positive"]'
                )
            )
            raise DataError(f"{where}: label '{name}': {known}")
        numbers.append(place[name] if labels else int(name))
    return numbers


def load_texts(path: Path | None, options: HoldOutOptions, rng: np.random.Generator) -> Source[Text]:
    """Load texts for language modelling: a folder with one ``.txt`` file a client, or JSONL with ``client``, ``text``.

    Raises:
        DataError: nothing is there, or a row is malformed; names file and line.
    """
    source = _given(path)
    texts: dict[str, list[str]] = {}
    if source.is_dir():
        for file in sorted(source.glob("*.txt"), key=lambda file: file.name):
            lines = [line.strip() for line in read_text(file).split("\n") if line.strip()]
            if not lines:
                raise DataError(f"client '{file.stem}' has no text: {file} is empty")
            texts[file.stem] = lines
        if not texts:
            raise DataError(f"no texts (*.txt) in {source}")
    else:
        for _, row in read_table(source, ("client", "text")):
            texts.setdefault(row["client"].strip(), []).append(row["text"].strip())
    return hold_out(texts, options, rng, clients_split="held-out-clients")


def _given(path: Path | None) -> Path:
    if path is None or not path.exists():
        raise DataError(f"no such file or folder: {path}")
    return path
