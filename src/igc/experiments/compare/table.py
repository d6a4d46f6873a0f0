"""What a comparison prints: the table, and who is at work."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from igc.experiments.compare.entrant import LOCAL_RATE, RATE
from igc.experiments.compare.names import parts
from igc.experiments.format import format_bytes, format_duration, format_factor, format_metric, rounds_each

_RATES = (f"{RATE}=", f"{LOCAL_RATE}=")


def table(lines: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table for each budget, the best method first."""
    budgets = dict.fromkeys((line["budget"], line["budget_bytes"] or line["rounds"]) for line in lines)
    return [_table(kind, size, [ln for ln in lines if _budget(ln) == (kind, size)]) for kind, size in budgets]


def _budget(line: Mapping[str, Any]) -> tuple[str, int]:
    return line["budget"], line["budget_bytes"] or line["rounds"]


def _table(kind: str, size: int, lines: Sequence[Mapping[str, Any]]) -> Table:
    first = lines[0]
    limit = rounds_each(size) if kind == "rounds" else f"at most {format_bytes(size)} each, all clients together"
    title = Text(f"{first['title']}: {limit}", style="table.title")  # of a recipe, which may hold brackets, as names do
    found = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    name = next((line["metric_name"] for line in lines if line["metric_name"]), "metric")
    # On a narrow terminal it is the method that gives way, and figures stay whole.
    found.add_column("method", overflow="fold", min_width=12)
    for column in (name, "up", "down", "total", "fewer", *(["rounds"] if kind != "rounds" else []), "rate", "time"):
        found.add_column(column, justify="right", no_wrap=True)
    for line in sorted(lines, key=_rank):
        found.add_row(*map(Text, _cells(line, with_rounds=kind != "rounds")))
    return found


def _rank(line: Mapping[str, Any]) -> tuple[bool, float]:
    metric = line["metric"]
    return metric is None, 0.0 if metric is None else -metric if line["higher_is_better"] else metric


def _cells(line: Mapping[str, Any], *, with_rounds: bool) -> list[str]:
    if line["metric"] is None:  # beside the figures' columns, which it would widen
        return [f"{_name(line)}\n {line['status']}"]
    spread = f" ± {format_metric(line['metric_std'])}" if line["seeds"] > 1 else ""
    up, down = line["bytes_up"], line["bytes_down"]
    return [
        _name(line),
        format_metric(line["metric"]) + spread,
        format_bytes(up),
        format_bytes(down),
        format_bytes(up + down),
        "-" if line["factor"] is None else format_factor(line["factor"]),
        *([f"{line['rounds']:,}"] if with_rounds else []),
        f"{line['learning_rate']:g}",
        format_duration(line["seconds"]),
    ]


def _name(line: Mapping[str, Any]) -> str:
    """The method, each setting of its own on a line of its own; where tuning began says nothing in a table of results."""
    plain, *changes = parts(str(line["method"]))
    shown = [_without_section(change) for change in changes if not change.startswith(_RATES)]
    return "\n +".join([plain, *shown])


def _without_section(change: str) -> str:
    key, equals, value = change.partition("=")
    return f"{key.rpartition('.')[2]}{equals}{value}"


class AtWork:
    """Shows which run each entrant is at: bars on a terminal, a line for each run elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._runs: dict[str, tuple[str, int]] = {}
        self._tasks: dict[str, TaskID] = {}
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, entrant: str, label: str, done: int, rounds: int) -> None:
        """A run of an entrant begins, or is so many rounds further; from any thread."""
        with self._lock:
            if self._runs.get(entrant) != (label, rounds):  # a probe of a few rounds is another run
                self._runs[entrant] = label, rounds
                if not self._console.is_terminal:
                    self._console.print(f"{label}, {rounds} rounds", markup=False, highlight=False, soft_wrap=True)
                if entrant in self._tasks:
                    self._bars.remove_task(self._tasks[entrant])
                self._tasks[entrant] = self._bars.add_task(label, total=rounds)
            self._bars.update(self._tasks[entrant], completed=done)
