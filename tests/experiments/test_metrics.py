"""The logs of a run: whole lines, whatever happens; no line twice after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igc.errors import RunError
from igc.experiments.metrics import JsonLines, read, truncate_after

records = st.lists(
    st.fixed_dictionaries(
        {"round": st.integers(0, 50), "loss": st.none() | st.floats(allow_nan=False, allow_infinity=False)},
        optional={"client": st.text(max_size=10), "bytes_up": st.integers(0, 2**60)},
    ),
    max_size=12,
)


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    with JsonLines(path) as log:
        for line in lines:
            log.append(line)


@given(lines=records)
def test_what_is_appended_is_read_in_order(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    write(path, lines[:5])
    write(path, lines[5:])
    assert read(path) == lines
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


@given(lines=records.filter(bool), cut=st.integers(1, 1000))
def test_a_torn_last_line_is_left_out_and_then_written_over(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    write(path, lines)
    content = path.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    path.write_bytes(content[: -(cut % last or 1)])
    assert read(path) == lines[:-1]
    write(path, lines[-1:])
    assert path.read_bytes() == content


@given(lines=records, round=st.integers(-1, 51))
def test_later_rounds_are_dropped_on_resume(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], round: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "ledger.jsonl"
    write(path, lines)
    truncate_after(path, round)
    assert read(path) == [line for line in lines if line["round"] <= round]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_line_is_there_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path) as log:
        log.append({"round": 1})
        assert read(path) == [{"round": 1}]
        log.sync()
    log.close()


def test_truncating_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    truncate_after(tmp_path / "ledger.jsonl", 3)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_refused(tmp_path: Path, value: float) -> None:
    with JsonLines(tmp_path / "metrics.jsonl") as log, pytest.raises(ValueError, match="JSON compliant"):
        log.append({"round": 1, "loss": value})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize(("line", "what"), [(b"{", "not JSON"), (b"[1]", "no record"), (b'{"loss": 1}', "no record")])
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, what: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"round": 1}\n' + line + b'\n{"round": 2}\n')
    with pytest.raises(RunError, match=rf"metrics\.jsonl, line 2: {what}"):
        read(path)


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*metrics\.jsonl: No such file"):
        read(tmp_path / "metrics.jsonl")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*No such file"):
        JsonLines(tmp_path / "missing" / "metrics.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_to_be_full() -> None:
    with JsonLines(Path("/dev/full")) as log, pytest.raises(RunError, match="disk is full; free some space"):
        log.append({"round": 1})
