"""How a federation is doing, read from a run's folder: while it trains, or afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from igc.deployment.events import EVENTS, is_gone, read_events
from igc.errors import RunError
from igc.experiments import metrics
from igc.experiments.format import format_bytes, format_duration, format_metric
from igc.experiments.recipe import RECIPE
from igc.experiments.run import SUMMARY, Run

_RECENT: Final = 5  # events that are shown
_WAITING: Final = "waiting for clients"
_TRAINING: Final = "training"
_FINISHED: Final = "finished"
_TROUBLE: Final = (
    "node-left",
    "node-failed",
    "node-error",
    "late",
    "not-sent",
    "waiting",
    "warning",
    "failed",
    "stopped",
)


@dataclass
class Status:
    """What is known of a run.

    Attributes:
        title: the recipe's.
        rounds: T.
        state: "waiting for clients", "training", "finished", "failed: ..." or "stopped", by somebody or by a kill.
        nodes: node -> how many clients it has; of nodes that are there, as the latest server knows.
        done: rounds done.
        total_up: bytes of all uploads.
        total_down: bytes of all downloads.
        asked: clients asked in the latest round.
        dropped: clients that never answered, in all rounds.
        rejected: uploads left out, in all rounds.
        metric_name: the headline metric.
        metric: its latest value, and the round that it is of.
        loss: of the latest round.
        epsilon: what of differential privacy is spent, where the run counts it.
        latest: when the run was last heard of.
        trouble: the latest events that somebody should know of.
    """

    title: str
    rounds: int
    state: str = "no round yet"
    nodes: dict[str, int] = field(default_factory=dict)
    done: int = 0
    total_up: int = 0
    total_down: int = 0
    asked: int = 0
    dropped: int = 0
    rejected: int = 0
    metric_name: str = "metric"
    metric: tuple[float, int] | None = None
    loss: float | None = None
    epsilon: float | None = None
    latest: datetime | None = None
    trouble: list[dict[str, Any]] = field(default_factory=list)


def read_status(folder: Path) -> Status:
    """The status of the run in a folder; one that trains elsewhere, or in this process alone, has no nodes.

    Raises:
        RunError: there is no run, or its logs are damaged.
    """
    events = read_events(folder / EVENTS)
    servers = [event for event in events if event["event"] == "server"]
    if (folder / RECIPE).exists() or not servers:
        recipe = Run.open(folder).recipe
        status = Status(recipe.title, recipe.federation.rounds)
    else:  # a run that could not even begin has taken its recipe back
        status = Status(str(servers[-1].get("title", folder.name)), int(servers[-1].get("rounds", 0)))
    log = folder / metrics.METRICS
    for line in metrics.read(log) if log.exists() else ():
        _count(status, line)
    for event in events:
        _follow(status, event)
    status.trouble = [event for event in events if event.get("event") in _TROUBLE][-_RECENT:]
    if status.state in (_WAITING, _TRAINING) and servers and is_gone(servers[-1]):
        status.state = "stopped: the server's process is gone"
    # A run goes on in one process, too, which writes no events.
    if status.state not in (_WAITING, _TRAINING, _FINISHED):
        if _summarised(folder) == status.done >= (status.rounds if events else 1):
            status.state = _FINISHED
        elif status.done and not events:
            status.state = f"{status.done} of {status.rounds} rounds done"
    return status


def show(status: Status, now: datetime) -> RenderableType:
    """The status as a table for the terminal.

    Args:
        status: what to show.
        now: with a time zone.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    heard = "" if status.latest is None else f", last heard of {_ago((now - status.latest).total_seconds())}"
    rows = [
        ("state", f"{status.state}{heard}"),
        ("rounds", f"{status.done} of {status.rounds}"),
        ("nodes", f"{len(status.nodes)}, with {sum(status.nodes.values())} clients" if status.nodes else "none known"),
        ("bytes up", format_bytes(status.total_up)),
        ("bytes down", format_bytes(status.total_down)),
        (
            "latest round",
            f"{status.asked} clients asked" + ("" if status.loss is None else f", loss {status.loss:.4f}"),
        ),
        ("never answered", f"{status.dropped} in all rounds"),
        ("rejected uploads", f"{status.rejected} in all rounds"),
    ]
    if status.metric is not None:
        rows.insert(2, (status.metric_name, f"{format_metric(status.metric[0])} after round {status.metric[1]}"))
    if status.epsilon is not None:
        rows.append(("epsilon", f"{status.epsilon:.3g}"))
    for name, value in rows:
        table.add_row(name, Text(value))
    shown: list[RenderableType] = [Text(status.title, style="bold"), table]
    if status.trouble:
        shown.append(Text("\nlately"))
        shown += [Text(f"  {_line(event)}", style="dim") for event in status.trouble]
    return Group(*shown)


def _summarised(folder: Path) -> int | None:
    """The rounds that a run had when it was finished; None where it never was."""
    try:
        return int(json.loads((folder / SUMMARY).read_text())["rounds"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {folder / SUMMARY}: {error}") from error


def _count(status: Status, line: Mapping[str, Any]) -> None:
    status.done = int(line["round"])
    status.total_up, status.total_down = int(line["total_up"]), int(line["total_down"])
    status.asked, status.loss = int(line["clients"]), line["loss"]
    status.dropped += int(line["dropped"])
    status.rejected += int(line["rejected"])
    if line.get("metric") is not None:
        status.metric_name, status.metric = str(line["metric_name"]), (float(line["metric"]), status.done)
    if line.get("epsilon") is not None:
        status.epsilon = float(line["epsilon"])


def _follow(status: Status, event: Mapping[str, Any]) -> None:
    status.latest = datetime.fromisoformat(str(event["time"]))
    kind, node = event["event"], str(event.get("node", ""))
    if kind == "server":
        status.state, status.nodes = _WAITING, {}
    elif kind == "start":
        status.state = _TRAINING
    elif kind == "node-joined":
        status.nodes[node] = int(event["clients"])
    elif kind == "node-left":
        status.nodes.pop(node, None)
    elif kind == "waiting":
        status.state = _WAITING
    elif kind == "round":
        status.state = _TRAINING
    elif kind == "failed":
        status.state = f"failed: {event['error']}"
    elif kind == "stopped":
        status.state = f"stopped: {event.get('reason', '')}"
    elif kind == "finished":
        status.state = _FINISHED


def _line(event: Mapping[str, Any]) -> str:
    facts = ", ".join(f"{key} {_short(value)}" for key, value in event.items() if key not in ("time", "event"))
    moment = datetime.fromisoformat(str(event["time"])).astimezone(UTC)
    return f"{moment:%H:%M:%S} UTC  {event['event']}: {facts}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value[:3])) + (f" and {len(value) - 3} more" if len(value) > 3 else "")
    return str(value)


def _ago(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{format_duration(seconds)} ago"
