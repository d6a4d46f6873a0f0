"""Logs of a run, one JSON object a line: ``metrics.jsonl`` (a line a round) and ``ledger.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from igc.errors import RunError
from igc.experiments.atomic import cannot_write, write_atomically

METRICS = "metrics.jsonl"
LEDGER = "ledger.jsonl"

Record = dict[str, Any]


class JsonLines:
    """Appends records to a file, each in the system's hands before `append` returns: a kill loses none of them.

    Args:
        path: made if there is none; a last line that a kill cut short is cut off.

    Raises:
        RunError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            torn = _torn(path.read_bytes()) if path.is_file() else 0
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            if torn:
                os.truncate(path, path.stat().st_size - torn)
        except OSError as error:
            raise RunError(cannot_write(path, error)) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            RunError: it could not be written, as on a full disk; lines before it are whole.
            ValueError: the record holds a NaN or an infinity, which JSON has no word for.
        """
        try:
            rest = f"{_line(record)}\n".encode()
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise RunError(cannot_write(self.path, error)) from error

    def sync(self) -> None:
        """Have all lines on the disk itself; before a checkpoint, so that it never knows more than the log.

        Raises:
            RunError: the disk failed.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise RunError(cannot_write(self.path, error)) from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> list[Record]:
    """All records of a file, each with an integer ``round``; a last line that a kill cut short is left out.

    Raises:
        RunError: the file cannot be read, or a line before the last is no JSON object.
    """
    return [record for record, _ in _lines(path)]


def write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file by these records.

    Raises:
        RunError: it cannot be written; it is then as it was.
    """
    write_atomically(path, "".join(f"{_line(record)}\n" for record in records).encode())


def truncate_after(path: Path, round: int) -> None:
    """Drop the records of later rounds, so that a resumed run writes them once; a file that is missing stays so.

    Raises:
        RunError: the file cannot be read or written; it is then as it was.
    """
    if not path.exists():
        return
    write_atomically(path, b"".join(line + b"\n" for record, line in _lines(path) if record["round"] <= round))


def of_split(record: Mapping[str, Any], split: str) -> Record:
    """A line with the ``metric`` of a split, None where that was not evaluated: headlines change with a recipe's splits."""
    if "metrics" not in record:
        return dict(record)
    return {**record, "metric": record["metrics"].get(split, {}).get(record.get("metric_name"))}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, separators=(", ", ": "))


def _lines(path: Path) -> Iterator[tuple[Record, bytes]]:
    """Each whole line, parsed and as it is."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; put it back, or train in a new folder") from error
    for number, line in enumerate(content[: len(content) - _torn(content)].splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}, line {number}: not JSON ({error}); delete that line or the run") from error
        if not isinstance(record, dict) or not isinstance(record.get("round"), int):
            raise RunError(f"{path}, line {number}: no record of a round; delete that line or the run")
        yield record, line


def _torn(content: bytes) -> int:
    """Length of the last line where it has no end."""
    return len(content) - (content.rfind(b"\n") + 1)
