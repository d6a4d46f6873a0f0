"""What a person watches while a run goes on, and the table at its end.

A run tells an `Observer` what happens; it never prints. `observer` picks the live display where there is a terminal and
plain lines, free of control characters, where there is none.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from igc.experiments.format import format_bytes, format_duration, format_factor, format_metric

Clock = Callable[[], float]


@dataclass(frozen=True)
class RunInfo:
    """What stays the same during a run.

    Attributes:
        title: the recipe's.
        method: name of the method.
        task: name of the task.
        metric_name: the headline metric.
        D: trainable parameters.
        d: numbers in an upload; D for uncompressed methods.
        clients: clients in the data.
        rounds: T, the last round's number.
        model_bytes: bytes of a message that holds the whole model.
        start_round: rounds done before; 0 unless resumed.
        device: where it computes.
        folder: where the run writes.
    """

    title: str
    method: str
    task: str
    metric_name: str
    D: int
    d: int
    clients: int
    rounds: int
    model_bytes: int
    start_round: int
    device: str
    folder: Path


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one round, and up to it.

    Attributes:
        round: 1 to ``rounds``; 0 is the model before training.
        rounds: T.
        loss: mean training loss of the clients that counted, before the update; None where there was none (round 0, or
            every client dropped or was rejected).
        bytes_up: of this round's uploads, as serialised.
        bytes_down: of this round's downloads, as serialised.
        total_up: of all uploads so far.
        total_down: of all downloads so far.
        total_messages: clients' uploads and downloads so far, one a round each way; uncompressed, each would have been as
            long as the model.
        seconds: wall time of the round, evaluation included.
        clients: how many were asked.
        dropped: how many of them never answered.
        rejected: how many of their answers were left out.
        metric_name: the headline metric.
        metric: its value on the headline split, where the round was evaluated.
        metrics: split -> metric name -> value, where the round was evaluated.
        clipped: how many answers the server had to cut to the norm bound.
        skipped: whether the round came to nothing although answers came.
        epsilon: of differential privacy, spent so far; None: the run has none.
    """

    round: int
    rounds: int
    loss: float | None
    bytes_up: int
    bytes_down: int
    total_up: int
    total_down: int
    total_messages: int
    seconds: float
    clients: int
    metric_name: str
    dropped: int = 0
    rejected: int = 0
    metric: float | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    clipped: int = 0
    skipped: bool = False
    epsilon: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The line of ``metrics.jsonl``: strict JSON, so that numbers that are not finite become None."""
        line: dict[str, Any] = {
            "round": self.round,
            "loss": _finite(self.loss),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "total_up": self.total_up,
            "total_down": self.total_down,
            "total_messages": self.total_messages,
            "seconds": round(self.seconds, 6),
            "clients": self.clients,
            "dropped": self.dropped,
            "rejected": self.rejected,
        }
        if self.clipped:
            line["clipped"] = self.clipped
        if self.skipped:
            line["skipped"] = True
        if self.epsilon is not None:
            line["epsilon"] = _finite(self.epsilon)
        if self.metric is not None:
            line |= evaluation(self.metrics, self.metric_name, self.metric)
        return line


def evaluation(scores: Mapping[str, Mapping[str, float]], name: str, headline: float) -> dict[str, Any]:
    """What an evaluation adds to a line of ``metrics.jsonl``.

    Args:
        scores: split -> name -> value.
        name: of the task's metric.
        headline: its value on the first split.
    """
    return {
        "metric": _finite(headline),
        "metric_name": name,
        "metrics": {split: {n: _finite(value) for n, value in values.items()} for split, values in scores.items()},
    }


class Observer(Protocol):
    """Who watches a run. A run calls `start` once, then the others as things happen, and `finish` in any case."""

    def start(self, info: RunInfo) -> None:
        """The run begins, or goes on."""

    def round(self, record: RoundRecord) -> None:
        """A round is over."""

    def warn(self, text: str) -> None:
        """Something a person should know, that does not stop the run."""

    def finish(self) -> None:
        """The run is over, well or not; may be called twice."""


def observer(stream: TextIO | None = None) -> Observer:
    """A live display where ``stream`` (stderr by default) is a terminal, plain lines where it is not."""
    stream = sys.stderr if stream is None else stream
    console = Console(file=stream)
    return LiveObserver(console) if console.is_terminal and not console.is_dumb_terminal else PlainObserver(stream)


@final
class PlainObserver:
    """Lines of text: one for each evaluation, for each round where they are few, and otherwise every ten seconds.

    Args:
        stream: where to write.
        clock: seconds, for time left and pauses.
    """

    few = 20
    pause = 10.0

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._state: _State | None = None
        self._spoke = clock()

    def start(self, info: RunInfo) -> None:
        """Say what runs, and where it writes."""
        self._state = _State(info, self._clock)
        self._write(f"{info.title}: {_what(info)}")
        self._write(f"writes to {info.folder}")
        if info.start_round:
            self._write(f"goes on after round {info.start_round} of {info.rounds}")

    def round(self, record: RoundRecord) -> None:
        """Write a line, if it is time for one."""
        if self._state is None:
            return
        self._state.update(record)
        if (
            record.metric is not None
            or record.round == record.rounds
            or record.rounds - self._state.info.start_round <= self.few
            or self._clock() - self._spoke >= self.pause
        ):
            self._write(self._state.line())

    def warn(self, text: str) -> None:
        """Write the warning at once."""
        self._write(f"warning: {text}")

    def finish(self) -> None:
        """Nothing is left to do: each line was written when it was due."""

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(_printable(text).encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()
        self._spoke = self._clock()


@final
class LiveObserver:
    """A bar and the figures of the round below it, redrawn in place; above it a line for each evaluation stays.

    Args:
        console: a terminal.
        clock: seconds, for time left.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._state: _State | None = None
        self._live: Live | None = None

    def start(self, info: RunInfo) -> None:
        """Say what runs, and draw the bar."""
        self._state = _State(info, self._clock)
        self._console.print(Text(_printable(info.title), style="bold"))
        self._console.print(Text(_printable(f"{_what(info)}\nwrites to {info.folder}"), style="dim"))
        if info.start_round:
            self._console.print(Text(f"goes on after round {info.start_round} of {info.rounds}", style="dim"))
        self._console.print()
        self._live = Live(console=self._console, get_renderable=self._draw, refresh_per_second=4)
        self._live.start()

    def round(self, record: RoundRecord) -> None:
        """Draw the round; where it was evaluated, leave a line of it."""
        if self._state is None:
            return
        before, at = self._state.metric, self._state.metric_round
        self._state.update(record)
        if record.metric is not None:
            self._console.print(_evaluation(record, before if at is not None else None))

    def warn(self, text: str) -> None:
        """Leave the warning above the bar."""
        self._console.print(Text.assemble(("warning: ", "bold yellow"), _printable(text)))

    def finish(self) -> None:
        """Leave the last state on the screen and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> Group:
        return _picture(self._state) if self._state else Group()


class _State:
    """What both displays show, kept up to date: the last round, the last evaluation, the pace."""

    def __init__(self, info: RunInfo, clock: Clock) -> None:
        self.info = info
        self.record: RoundRecord | None = None
        self.metric: float | None = None
        self.metric_round: int | None = None
        self.loss: float | None = None
        self._clock = clock
        self._began = self._updated = clock()

    def update(self, record: RoundRecord) -> None:
        self.record = record
        if record.loss is not None:
            self.loss = record.loss
        if record.metric is not None:
            self.metric, self.metric_round = record.metric, record.round
        self._updated = self._clock()
        if record.round <= self.info.start_round:  # the evaluation before training says nothing about the pace
            self._began = self._updated

    @property
    def done(self) -> int:
        return self.record.round if self.record else self.info.start_round

    @property
    def factor(self) -> float:
        """How many times fewer bytes than if each message so far had been the whole model."""
        record = self.record
        measured = record.total_up + record.total_down if record else 0
        return self.info.model_bytes * record.total_messages / measured if record and measured else math.nan

    @property
    def left(self) -> float:
        """Seconds to the end, at the pace of this session's whole rounds; NaN before its first."""
        rounds = self.done - self.info.start_round
        if rounds <= 0:
            return math.nan
        end = self._updated + (self._updated - self._began) / rounds * (self.info.rounds - self.done)
        return max(0.0, end - self._clock())

    def line(self) -> str:
        """All of it, on one line."""
        record, width = self.record, len(str(self.info.rounds))
        parts = [f"round {self.done:>{width}}/{self.info.rounds}", f"loss {format_metric(self.loss)}"]
        if record and record.metric is not None:
            parts.append(f"{self.info.metric_name} {format_metric(record.metric)}")
        if record and record.total_messages:
            parts += [f"up {format_bytes(record.total_up)}", f"down {format_bytes(record.total_down)}"]
            parts.append(f"{format_factor(self.factor)} less than the model")
        parts += [f"epsilon {record.epsilon:.3g}"] if record and record.epsilon is not None else []
        parts += [f"{count} {what}" for what, count in _absent(record).items()]
        if self.done < self.info.rounds and math.isfinite(self.left):
            parts.append(f"{format_duration(self.left)} left")
        return "  ".join(parts)


def _picture(state: _State) -> Group:
    """The bar, and a table of figures below it."""
    info, record = state.info, state.record
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, justify="right", min_width=12)
    left = f"{format_duration(state.left)} left" if math.isfinite(state.left) else "measuring"
    bar.add_row(
        Text(f"round {state.done:,}/{info.rounds:,}", style="bold"),
        ProgressBar(total=info.rounds, completed=state.done),
        Text("done" if state.done == info.rounds else left),
    )
    at = f" at {state.metric_round}" if state.metric_round is not None else ""
    up, down = (record.total_up, record.total_down) if record else (0, 0)
    columns = {
        "loss": format_metric(state.loss),
        info.metric_name: format_metric(state.metric) + at,
        "up": format_bytes(up),
        "down": format_bytes(down),
        "compression": format_factor(state.factor),
    } | {what: str(count) for what, count in _absent(record).items()}
    if record and record.epsilon is not None:
        columns["epsilon"] = f"{record.epsilon:.3g}"
    figures = Table.grid(padding=(0, 3, 0, 0))
    figures.add_row(*(Text(_printable(name), style="dim") for name in columns))
    figures.add_row(*(Text(value, style="bold") for value in columns.values()))
    return Group(bar, figures)


def _evaluation(record: RoundRecord, before: float | None) -> Text:
    """The line that an evaluation leaves on the screen."""
    change = "" if before is None or record.metric is None else f" ({record.metric - before:+.4g})"
    where = "before training" if record.round == 0 else f"round {record.round:,}"
    values = [
        f"{split} {name} {format_metric(value)}"
        for split, metrics in record.metrics.items()
        for name, value in metrics.items()
        if name == record.metric_name
    ]
    shown = [f"{record.metric_name} {format_metric(record.metric)}{change}", *values[1:]]
    return Text.assemble((f"{where:>16}  ", "dim"), _printable("   ".join(shown)))


def _what(info: RunInfo) -> str:
    """What runs, in a line."""
    subspace = f"d = {info.d:,} of D = {info.D:,}" if info.d < info.D else f"all D = {info.D:,} numbers"
    return f"{info.method} on {info.task}, {subspace}, {info.clients:,} clients, {info.rounds:,} rounds, {info.device}"


def _absent(record: RoundRecord | None) -> dict[str, int]:
    if record is None:
        return {}
    counts = {"dropped": record.dropped, "rejected": record.rejected, "clipped": record.clipped}
    return {what: count for what, count in counts.items() if count}


def _printable(text: str) -> str:
    """``text`` without control characters, so that no title and no error can move the cursor."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
