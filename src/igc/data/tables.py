"""Read local tables strictly: CSV, TSV and JSON lines, every fault with its file and line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from igc.errors import DataError

# Where a row came from ("file, line 7"), and its columns.
Row = tuple[str, dict[str, str]]


def read_text(file: Path) -> str:
    """The file's text.

    Raises:
        DataError: it is missing, unreadable or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error


def read_table(file: Path, required: Sequence[str]) -> list[Row]:
    """All rows of a ``.csv``, ``.tsv`` or ``.jsonl`` file.

    A TSV file is GLUE's: no quoting, so that a quotation mark is a character like any other.

    Raises:
        DataError: the file cannot be read, its ending is none of these, or a row lacks a required column.
    """
    readers = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl}
    if file.suffix not in readers:
        raise DataError(f"{file} must end in {', '.join(readers)}")
    rows = list(readers[file.suffix](file))
    if not rows:
        raise DataError(f"{file} has no rows")
    for where, row in rows:
        for column in required:
            if not row.get(column, "").strip():
                has = ", ".join(name for name, value in row.items() if value.strip()) or "nothing"
                raise DataError(f"{where}: column '{column}' is missing or empty; the row has {has}")
    return rows


def _csv(file: Path) -> Iterator[Row]:
    # Not splitlines(), which takes characters within texts for ends of lines, U+2028 for one.
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if cells:
                yield _row(f"{file}, line {reader.line_num}", header, cells)
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from error


def _tsv(file: Path) -> Iterator[Row]:
    lines = read_text(file).split("\n")
    header = lines[0].rstrip("\r").split("\t")
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            yield _row(f"{file}, line {number}", header, line.rstrip("\r").split("\t"))


def _row(where: str, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise DataError(f"{where}: expected {len(header)} columns ({', '.join(header)}), found {len(cells)}")
    return where, dict(zip(header, cells, strict=True))


def _jsonl(file: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        value = parse_json(line, where)
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected an object, not {line[:60]!r}")
        yield where, {str(key): _cell(cell) for key, cell in value.items()}


def _cell(value: Any) -> str:
    """As in the other formats; null is nothing, as tools write what is missing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: it is not JSON; names ``where``.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
