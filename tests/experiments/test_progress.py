"""What a person sees while a run goes on, on a terminal and without one."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from igc.experiments.progress import (
    LiveObserver,
    Observer,
    PlainObserver,
    RoundRecord,
    RunInfo,
    observer,
)

INFO = RunInfo(
    title="Movie reviews",
    method="static",
    task="text-classification",
    metric_name="accuracy",
    D=22_713_600,
    d=16_384,
    clients=240,
    rounds=100,
    model_bytes=90_854_400,
    start_round=0,
    device="CPU",
    folder=Path("runs/movie-reviews"),
)


def record(number: int, **changes: Any) -> RoundRecord:
    evaluated = number % 10 == 0
    made = RoundRecord(
        round=number,
        rounds=100,
        loss=0.7 - number / 250 if number else None,
        bytes_up=262_400 if number else 0,
        bytes_down=262_400 if number else 0,
        total_up=262_400 * number,
        total_down=262_400 * number,
        total_messages=8 * number,
        seconds=1.0,
        clients=4 if number else 0,
        metric_name="accuracy",
        metric=0.5 + number / 400 if evaluated else None,
        metrics={"test": {"accuracy": 0.5 + number / 400, "loss": 0.6}} if evaluated else {},
    )
    return replace(made, **changes)


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def watch(seen: Observer, clock: Clock, info: RunInfo = INFO, until: int = 100, step: float = 1.0) -> None:
    seen.start(info)
    for number in range(info.start_round, until + 1):
        seen.round(record(number, rounds=info.rounds))
        clock.now += step


def plain(info: RunInfo = INFO, until: int = 100, step: float = 1.0) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    seen = PlainObserver(stream, clock)
    watch(seen, clock, info, until, step)
    seen.finish()
    return stream.getvalue().splitlines()


@pytest.fixture
def terminal() -> Iterator[tuple[LiveObserver, Clock, Console]]:
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    seen = LiveObserver(console, clock)
    yield seen, clock, console
    seen.finish()


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# The record ----------------------------------------------------------------------------------------------------------


def test_a_line_of_metrics_holds_what_the_readme_promises() -> None:
    line = record(10).to_json()
    assert {"round", "loss", "bytes_up", "bytes_down", "seconds"} <= record(9).to_json().keys()
    assert "metric" not in record(9).to_json()
    assert (line["metric"], line["metric_name"]) == (0.525, "accuracy")
    assert line["metrics"] == {"test": {"accuracy": 0.525, "loss": 0.6}}
    assert json.loads(json.dumps(line, allow_nan=False)) == line


def test_what_is_not_finite_becomes_null() -> None:
    line = record(10, loss=math.nan, metric=math.inf, metrics={"test": {"accuracy": math.inf, "loss": 1.0}}).to_json()
    assert (line["loss"], line["metric"], line["metrics"]) == (None, None, {"test": {"accuracy": None, "loss": 1.0}})
    json.dumps(line, allow_nan=False)


# Without a terminal --------------------------------------------------------------------------------------------------


def test_a_line_for_each_evaluation() -> None:
    lines = [line for line in plain(step=0.1) if line.startswith("round")]
    assert len(lines) == 11
    assert lines[5] == (
        "round  50/100  loss 0.5000  accuracy 0.6250  up 13.1 MB  down 13.1 MB  1,385x less than the model  0:05 left"
    )
    assert lines[-1].startswith("round 100/100")
    assert "left" not in lines[-1]


def test_a_line_every_ten_seconds_where_rounds_are_slow() -> None:
    lines = [line for line in plain(step=6.0, until=9) if line.startswith("round")]
    assert [line.split("/")[0].split()[-1] for line in lines] == ["0", "2", "4", "6", "8"]


def test_a_line_for_each_round_where_they_are_few() -> None:
    lines = plain(replace(INFO, rounds=15), until=15, step=0.01)
    assert len([line for line in lines if line.startswith("round")]) == 16


def test_a_resumed_run_says_so_and_counts_its_own_pace() -> None:
    lines = plain(replace(INFO, start_round=80), step=2.0)
    assert "goes on after round 80 of 100" in lines
    assert "0:20 left" in next(line for line in lines if line.startswith("round  90"))


def test_what_went_missing_is_counted() -> None:
    stream = io.StringIO()
    seen = PlainObserver(stream)
    seen.start(replace(INFO, rounds=5))
    seen.round(record(1, rounds=5, dropped=2, rejected=1, loss=None))
    assert "loss -" in stream.getvalue()
    assert "2 dropped  1 rejected" in stream.getvalue()


def test_nothing_can_move_the_cursor() -> None:
    stream = io.StringIO()
    seen = PlainObserver(stream)
    seen.start(replace(INFO, title="a\x1b[2J\rtitle"))
    seen.warn("client \x07 'x\x9b'")
    assert all(character.isprintable() or character == "\n" for character in stream.getvalue())
    assert "warning: client   'x '" in stream.getvalue()


def test_a_stream_that_knows_ascii_only_is_written_to() -> None:
    raw = io.BytesIO()
    seen = PlainObserver(io.TextIOWrapper(raw, encoding="ascii"))
    seen.start(replace(INFO, title="Théâtre"))
    assert raw.getvalue().startswith(b"Th??tre: static on")


def test_a_uncompressed_run_is_described_as_such() -> None:
    assert "all D = 22,713,600 numbers" in plain(replace(INFO, d=INFO.D), until=0)[0]


# On a terminal -------------------------------------------------------------------------------------------------------


def test_the_live_display_shows_the_last_round(terminal: tuple[LiveObserver, Clock, Console]) -> None:
    seen, clock, _ = terminal
    watch(seen, clock, until=55)
    picture = Console(file=io.StringIO(), width=80, height=24)
    picture.print(seen._draw())
    text = shown(picture)
    for part in ("round 55/100", "0.4800", "0.6250 at 50", "14.4 MB", "1,385x", "0:44 left"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 80


def test_each_evaluation_leaves_a_line(terminal: tuple[LiveObserver, Clock, Console]) -> None:
    seen, clock, console = terminal
    watch(seen, clock, until=20)
    assert "before training" in shown(console)
    assert "(+0.025)" in shown(console)


def test_warnings_are_shown_without_control_characters(terminal: tuple[LiveObserver, Clock, Console]) -> None:
    seen, _, console = terminal
    seen.start(INFO)
    seen.warn("[red]client\x1b[2J[/red]")
    assert "[red]client [2J[/red]" in shown(console)


def test_the_terminal_is_given_back(terminal: tuple[LiveObserver, Clock, Console]) -> None:
    seen, _, console = terminal
    seen.start(INFO)
    seen.finish()
    seen.finish()
    assert shown(console).count("\x1b[?25l") == shown(console).count("\x1b[?25h") == 1  # cursor hidden, shown


def test_the_display_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(observer(Terminal()), LiveObserver)
    assert isinstance(observer(io.StringIO()), PlainObserver)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(observer(Terminal()), PlainObserver)
