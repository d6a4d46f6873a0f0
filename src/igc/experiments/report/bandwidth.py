"""What each method should send, by METHOD.md's table of costs (section 2), beside what its ledger says it sent.

The table counts numbers; a codec says how many bytes they take; headers, and what catching up costs, are what the
measurement has on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from igc.codecs import CODECS
from igc.experiments.report.read import Entry, RunLog

# method: numbers up, numbers down, dimensions explored in E epochs; of d, D, K and E
_TABLE: Final[Mapping[str, tuple[str, str, str]]] = {
    "static": ("d", "d", "d"),
    "time-varying": ("d", "2d", "dE"),
    "k-subspace": ("d", "Kd", "Kd"),
    "k-subspace-time-varying": ("d", "2Kd", "KdE"),
    "fedsgd": ("D", "D", "D"),
    "fedavg": ("D", "D", "D"),
}
_FLOAT32: Final = 4


@dataclass(frozen=True)
class Way:
    """One direction, a message on average.

    Attributes:
        formula: numbers of a message, in the letters of the paper; empty for methods that are not in the table.
        predicted: bytes; None where nothing can be said before.
        measured: bytes by the ledger; None before the first message.
    """

    formula: str
    predicted: float | None
    measured: float | None

    @property
    def excess(self) -> float | None:
        """By what share the measurement is above the prediction."""
        return self.measured / self.predicted - 1 if self.measured is not None and self.predicted else None


@dataclass(frozen=True)
class Cost:
    """A row of the table.

    Attributes:
        entry: whose.
        messages: up and down together, all seeds.
        up: a client's upload.
        down: a client's download.
        explored: formula of the dimensions explored; empty for methods that are not in the table.
        dimensions: its value; None where it is not known.
        codec: of uploads.
    """

    entry: Entry
    messages: int
    up: Way
    down: Way
    explored: str
    dimensions: int | None
    codec: str


def costs(entries: Sequence[Entry]) -> list[Cost]:
    """A row for each entry that has sent something."""
    trainable = _trainable(entries)
    return [_cost(entry, trainable) for entry in entries if sum(run.downloads for run in entry.runs)]


def _cost(entry: Entry, trainable: Mapping[str, int]) -> Cost:
    runs = entry.runs
    first = runs[0]
    uploads, downloads = sum(run.uploads for run in runs), sum(run.downloads for run in runs)
    measured_up = sum(run.bytes_up for run in runs) / uploads if uploads else None
    measured_down = sum(run.bytes_down for run in runs) / downloads if downloads else None
    codecs = [first.setting(f"codec.{way}", "float32") for way in ("up", "down")]
    if (letters := _TABLE.get(entry.method)) is None or _beyond_the_table(first):
        # Of what other methods send, some is coded and some is not, such as indices.
        known = [entry.method in _TABLE or codec == "float32" for codec in codecs]
        up, down = (
            Way("", _by_summary(runs, way, codec) if sure else None, seen)
            for way, codec, sure, seen in zip(("up", "down"), codecs, known, (measured_up, measured_down), strict=True)
        )
        return Cost(entry, uploads + downloads, up, down, "", None, codecs[0])
    values = _values(first, trainable)
    up, down = (
        Way(formula, None if (n := _evaluate(formula, values)) is None else CODECS[codec].length((n,)), seen)
        for formula, codec, seen in zip(letters[:2], codecs, (measured_up, measured_down), strict=True)
    )
    explored = _evaluate(letters[2], values)
    D = values.get("D")
    dimensions = explored if explored is None or D is None else min(explored, D)
    return Cost(entry, uploads + downloads, up, down, letters[2], dimensions, codecs[0])


def _beyond_the_table(run: RunLog) -> bool:
    """Whether the paper's table does not know what the run sends; d is not `method.dim` alone with groups of tensors."""
    keys = ("local.control_variates", "method.burn_in", "method.full", "method.full_below", "method.budgets")
    return any(run.setting(key) for key in keys)


def _values(run: RunLog, trainable: Mapping[str, int]) -> dict[str, int]:
    """What the letters stand for in a run, as far as they are known."""
    per_round = run.setting("federation.clients_per_round")
    clients = (run.summary or {}).get("clients") or run.setting("data.clients")
    pass_over_clients = math.ceil(clients / per_round) if clients and per_round else None
    # On a plateau, no recipe says how many subspaces there were.
    on_plateau = run.setting("method.change") == "plateau"
    epoch = None if on_plateau else run.setting("method.rounds_per_epoch") or pass_over_clients
    found = {
        "d": run.setting("method.dim"),
        "D": (run.summary or {}).get("D") or trainable.get(_model(run)),
        "K": run.setting("method.subspaces"),
        "E": math.ceil(max(run.rounds_done, 1) / epoch) if epoch else None,
    }
    return {letter: value for letter, value in found.items() if value is not None}


def _evaluate(formula: str, values: Mapping[str, int]) -> int | None:
    """A product such as ``2Kd``; None where a letter is not known."""
    result = 1
    for sign in formula:
        if sign.isdigit():
            result *= int(sign)
        elif sign in values:
            result *= values[sign]
        else:
            return None
    return result


def _by_summary(runs: Sequence[RunLog], way: str, codec: str) -> float | None:
    """What a message takes by the method's own count of numbers; finished runs alone have it.

    Numbers go through the codec as one vector, as many as a message has on average: where messages differ, as in a burn-in,
    the headers of buckets may be a few bytes more.
    """
    total, messages = 0.0, 0
    for run in runs:
        predicted = ((run.summary or {}).get("table") or {}).get(f"predicted_{way}")
        if predicted is None:
            return None
        total, messages = total + predicted, messages + (run.uploads if way == "up" else run.downloads)
    if not messages:
        return None
    numbers = total / messages / _FLOAT32
    return _FLOAT32 * numbers if codec == "float32" else CODECS[codec].length((round(numbers),))


def _model(run: RunLog) -> str:
    """What decides D."""
    return repr([run.setting("model"), run.setting("space"), run.setting("task")])


def _trainable(entries: Sequence[Entry]) -> dict[str, int]:
    """D of every model that a finished run has trained: those still running share it."""
    return {
        _model(run): run.summary["D"] for entry in entries for run in entry.runs if run.summary and "D" in run.summary
    }
