"""Reads the folders of runs, comparisons and tunings for a report; whatever a run has written so far is enough."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from igc.errors import RunError
from igc.experiments import metrics
from igc.experiments.compare import JSON, RUNS, comparison
from igc.experiments.compare.campaign import COMPLETE
from igc.experiments.compare.execute import OUTCOME
from igc.experiments.compare.folders import method_folders
from igc.experiments.contents import kind_of
from igc.experiments.format import format_bytes, rounds_each
from igc.experiments.metrics import LEDGER, METRICS, Record
from igc.experiments.recipe import RECIPE
from igc.experiments.report.checks import (
    OF_A_LINE,
    OF_A_RECIPE,
    OF_A_ROUND,
    OF_A_SUMMARY,
    OF_A_TRIAL,
    check,
    is_count,
    look_up,
)
from igc.experiments.run import SUMMARY
from igc.experiments.tune import JSON as TUNING

_FALLING: Final = ("perplexity", "loss")  # measures of which less is better, where a run does not say yet
_NAMES_MANY: Final = 2  # settings that a name grows by, where two would be the same
_OF_EVERY_ROUND: Final = ("total_up", "total_down", "seconds")
_ANEW: Final = "`igc resume` the run writes it anew"


@dataclass(frozen=True, eq=False)
class RunLog:
    """What a run's folder holds so far.

    Attributes:
        folder: the run's.
        recipe: ``recipe.toml`` as tables.
        records: lines of ``metrics.jsonl``, with the ``metric`` of the recipe's first split.
        uploads: messages up, by the ledger.
        downloads: messages down, by the ledger.
        bytes_up: of them, by the ledger.
        bytes_down: likewise.
        summary: None while the run is not finished.
        broke_down: a comparison gave it up, its training having broken down.
        touched: when its log last grew, in seconds since the epoch.
        verdict: what the tuning that it was a trial of made of it.
    """

    folder: Path
    recipe: Mapping[str, Any]
    records: tuple[Record, ...]
    uploads: int
    downloads: int
    bytes_up: int
    bytes_down: int
    summary: Mapping[str, Any] | None
    broke_down: bool
    touched: float
    verdict: str | None = None

    @property
    def evaluated(self) -> list[Record]:
        """The records of rounds that were evaluated, to a finite number."""
        return [record for record in self.records if record.get("metric") is not None]

    @property
    def rounds_done(self) -> int:
        """The last round in the log."""
        return int(self.records[-1]["round"]) if self.records else 0

    @property
    def rounds(self) -> int:
        """T."""
        return int(self.setting("federation.rounds"))

    @property
    def seed(self) -> int:
        """The recipe's."""
        return int(self.setting("seed"))

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting of the recipe by its dotted key."""
        return look_up(self.recipe, key, default)


@dataclass(frozen=True, eq=False)
class Entry:
    """A method as a report shows it: a line of a table, a point, a curve.

    Attributes:
        name: tells it from the others.
        about: what it is; may be empty.
        status: `COMPLETE`, or what keeps it from being so.
        runs: a run for each seed.
        budget: what a comparison allowed it, for a person; empty for a run that was not part of one.
        metric: mean over seeds at the last evaluation; None where there is none.
        metric_std: standard deviation over seeds (n - 1); 0 for one.
        initial: mean metric before training.
        bytes_up: mean over seeds of all clients' uploads so far.
        bytes_down: likewise.
        factor: how many times fewer bytes than sending the model in every message.
        rounds: done.
        seconds: mean over seeds.
        learning_rate: of the server, or of clients where that is what a comparison tuned.
        key: what it trains on and by which measure; entries of one key can be compared.
        title: the recipe's.
        metric_name: of the metric.
        higher_is_better: of the metric.
    """

    name: str
    about: str
    status: str
    runs: tuple[RunLog, ...]
    budget: str
    metric: float | None
    metric_std: float
    initial: float | None
    bytes_up: float
    bytes_down: float
    factor: float | None
    rounds: int
    seconds: float
    learning_rate: float | None
    key: str
    title: str
    metric_name: str
    higher_is_better: bool

    @property
    def done(self) -> bool:
        """It has a final result."""
        return self.status == COMPLETE

    @property
    def going(self) -> bool:
        """It may yet have one."""
        return self.status.startswith("in progress")

    @property
    def total(self) -> float:
        """Bytes up and down."""
        return self.bytes_up + self.bytes_down

    @property
    def method(self) -> str:
        """Name of the method, as in recipes."""
        return str(self.runs[0].setting("method.name")) if self.runs else self.name


@dataclass(frozen=True)
class Group:
    """Entries that can be compared: one task, model, data set and measure.

    Attributes:
        title: what they are about.
        entries: best first; those without a result last.
    """

    title: str
    entries: tuple[Entry, ...]

    @property
    def metric_name(self) -> str:
        """The measure."""
        return next((entry.metric_name for entry in self.entries if entry.metric_name), "metric")

    @property
    def higher_is_better(self) -> bool:
        """Which way the measure goes."""
        return next((entry.higher_is_better for entry in self.entries if entry.metric_name), True)

    @property
    def budgets(self) -> dict[str, tuple[Entry, ...]]:
        """Entries by what they were allowed."""
        names = dict.fromkeys(entry.budget for entry in self.entries)
        return {name: tuple(entry for entry in self.entries if entry.budget == name) for name in names}


def read(folders: Sequence[Path]) -> list[Group]:
    """What the folders of runs, comparisons and tunings hold so far.

    Args:
        folders: each of a run, of a comparison or of a tuning, in any mixture.

    Returns:
        Groups in the order of the folders.

    Raises:
        RunError: a folder holds none of them, or a file in it is missing or damaged.
    """
    loose: list[RunLog] = []
    entries: list[Entry] = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        kind = kind_of(folder)
        if kind == "tuning":
            loose += _trials(folder)
        elif kind == "comparison":
            entries += _comparison(folder)
        elif (folder / RECIPE).is_file():
            loose.append(read_run(folder))
        else:
            what = f"holds no run, no comparison and no tuning (no {RECIPE} in it)"
            if not folder.exists():
                what = "does not exist"
            elif not folder.is_dir():
                what = "is a file"
            raise RunError(f"{folder} {what}; give the folder that `igc train`, `igc compare` or `igc tune` wrote to")
    if not entries and not loose:
        raise RunError("nothing in these folders has begun to train yet; try again in a moment")
    return _groups([*entries, *_standalone(loose)])


def read_run(folder: Path) -> RunLog:
    """What a run's folder holds so far.

    Raises:
        RunError: a file is missing or damaged.
    """
    recipe = _toml(folder / RECIPE)
    for key in ("federation.rounds", "method.name", "task.name", "data.source", "model.source", "seed"):
        if look_up(recipe, key) is None:
            raise RunError(f"{folder / RECIPE} has no {key}; that is no recipe of a run")
    log, ledger = folder / METRICS, folder / LEDGER
    summary = _json(folder / SUMMARY) if (folder / SUMMARY).is_file() else None
    if summary is not None:
        check(summary, OF_A_SUMMARY, str(folder / SUMMARY), _ANEW)
        for path in (log, ledger):
            if not path.is_file():
                raise RunError(f"{path} is missing, though the run is finished; put it back or leave the run out")
    up, down, uploads, downloads = 0, 0, 0, 0
    for line in metrics.read(ledger) if ledger.is_file() else ():
        for client, way in _clients(line, ledger).items():
            if not (isinstance(way, dict) and is_count(way.get("up")) and is_count(way.get("down"))):
                raise RunError(f"{ledger}, round {line['round']}: no bytes up and down of client '{client}'")
            up, down = up + way["up"], down + way["down"]
            uploads, downloads = uploads + (way["up"] > 0), downloads + (way["down"] > 0)
    records = tuple(metrics.read(log)) if log.is_file() else ()
    _check(records, log)
    headline = look_up(recipe, "evaluation.splits", ["test"])[0]
    records = tuple(metrics.of_split(record, headline) for record in records)
    done = records[-1]["round"] if records else 0
    if summary is not None and done < (summary.get("rounds") or 0):  # more is well: it was given more rounds since
        raise RunError(
            f"{log} ends after round {done:,}, though the run is finished, with {summary['rounds']:,}; put the whole file"
            " back or leave the run out"
        )
    return RunLog(
        folder, recipe, records, uploads, downloads, up, down, summary, (folder / OUTCOME).exists(), _touched(folder)
    )


def _trials(root: Path) -> list[RunLog]:
    """The runs of a tuning, and what it made of them."""
    path, remedy = root / TUNING, "delete it and tune again, trials are kept"
    lines = _json(path, remedy).get("trials") if path.is_file() else []
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise RunError(f"{path} has no list of trials; {remedy}")
    verdicts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        check(line, OF_A_TRIAL, f"{path}, trial {number} of the list", remedy)
        if line.get("run"):
            if line.get("status") is None:
                raise RunError(f"{path}, trial {number} of the list: has a run and no status; {remedy}")
            verdicts[Path(line["run"]).name] = line["status"]
    runs = (path for path in sorted((root / RUNS).glob("*")) if (path / RECIPE).is_file())
    return [replace(read_run(path), verdict=verdicts.get(path.name)) for path in runs]


def _clients(line: Record, ledger: Path) -> Mapping[str, Any]:
    clients = line.get("clients")
    if not isinstance(clients, dict):
        raise RunError(f"{ledger}, round {line['round']}: names no clients; delete that line or the run")
    return clients


def _check(records: Iterable[Record], path: Path) -> None:
    remedy = "delete that line or the run"
    for record in records:
        where = f"{path}, round {record['round']}"
        for key in _OF_EVERY_ROUND:
            if record.get(key) is None:
                raise RunError(f"{where}: no number for {key}; {remedy}")
        check(record, OF_A_ROUND, where, remedy)


def _touched(folder: Path) -> float:
    log = folder / METRICS
    return log.stat().st_mtime if log.is_file() else (folder / RECIPE).stat().st_mtime


# Comparisons


def _comparison(root: Path) -> list[Entry]:
    """The lines of ``comparison.json``, and those who have begun but have no line yet."""
    entries = [_of_line(root, line) for line in comparison.read(root)]
    known = {folder.parent.name for entry in entries for run in entry.runs for folder in (run.folder,)}
    known |= {name for entry in entries for name in method_folders(entry.name)}
    runs = root / RUNS
    for folder in sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else ():
        if folder.name in known:
            continue
        begun = [read_run(path) for path in sorted(folder.iterdir()) if (path / RECIPE).is_file()]
        if begun:
            newest = max(begun, key=lambda run: (run.touched, run.folder.name))
            finished = sum(run.summary is not None or run.broke_down for run in begun)
            status = f"in progress: {finished} {'run' if finished == 1 else 'runs'} finished"
            if newest.summary is None and not newest.broke_down:
                status += f", the next at round {newest.rounds_done:,} of {newest.rounds:,}"
            entries.append(replace(_of_runs(folder.name, (newest,)), status=status, budget=_allowed(newest, entries)))
    return entries


def _allowed(run: RunLog, entries: Sequence[Entry]) -> str:
    """The table that an entrant without a result is shown in: that of its rounds, or else the first."""
    rounds = rounds_each(run.rounds)
    budgets = [entry.budget for entry in entries]
    return rounds if rounds in budgets or not budgets else budgets[0]


def _of_line(root: Path, line: Mapping[str, Any]) -> Entry:
    path = root / JSON
    check(line, OF_A_LINE, f"{path}: the line of '{line.get('method')}'", "delete the file and compare again")
    try:
        runs = tuple(read_run(_run_folder(root / run, path)) for run in line["runs"])
        size = line["budget_bytes"]
        budget = rounds_each(line["rounds"]) if size is None else f"at most {format_bytes(size)} each"
        sources = runs or (_base(root),)
        return Entry(
            name=str(line["method"]),
            about=str(line.get("about") or ""),
            status=str(line["status"]),
            runs=runs,
            budget=budget,
            metric=line["metric"],
            metric_std=line["metric_std"] or 0.0,
            initial=_initial(runs),
            bytes_up=line["bytes_up"] or 0.0,
            bytes_down=line["bytes_down"] or 0.0,
            factor=line["factor"],
            rounds=line["rounds"],
            seconds=line["seconds"] or 0.0,
            learning_rate=line["learning_rate"],
            key=_key(sources[0]),
            title=str(line["title"]),
            metric_name=str(line["metric_name"] or ""),
            higher_is_better=bool(line["higher_is_better"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read: {error}"
        raise RunError(
            f"{path}: the line of '{line.get('method')}' {what}; delete the file and compare again"
        ) from error


def _run_folder(folder: Path, path: Path) -> Path:
    if not (folder / RECIPE).is_file():
        raise RunError(
            f"{path} names the run {folder}, which holds no {RECIPE}; put it back, or delete {path} and compare"
        )
    return folder


def _base(root: Path) -> RunLog:
    return RunLog(root, _toml(root / RECIPE), (), 0, 0, 0, 0, None, False, 0.0)


# Runs


def _standalone(runs: Sequence[RunLog]) -> list[Entry]:
    """Runs that differ in nothing but their seeds are one entry; entries of one method are told apart by settings."""
    bundles: dict[str, list[RunLog]] = {}
    for run in runs:
        bundles.setdefault(json.dumps(_settings(run), sort_keys=True, default=str), []).append(run)
    entries = []
    for bundle in bundles.values():
        seeds = {run.seed for run in bundle}
        parts = [tuple(bundle)] if len(seeds) == len(bundle) else [(run,) for run in bundle]
        entries += [_of_runs(str(part[0].setting("method.name")), part) for part in parts]
    return _told_apart(entries)


def _of_runs(name: str, runs: tuple[RunLog, ...]) -> Entry:
    first = runs[0]
    done = all(run.summary is not None for run in runs)
    last = [run.evaluated[-1] for run in runs if run.evaluated]
    # What was reached before a run ended in no number is not what all its bytes bought.
    not_finite = [run for run in runs if run.summary is not None and run.summary.get("final_metric", 0) is None]
    values = [] if not_finite else [record["metric"] for record in last]
    summaries = [run.summary for run in runs if run.summary is not None]
    factors = [s["factor_vs_model"] for s in summaries if s.get("factor_vs_model") is not None]
    metric_name = str(last[0].get("metric_name", "")) if last else ""
    return Entry(
        name=name,
        about="",
        status=first.verdict or (_not_finite(not_finite[0]) if not_finite else COMPLETE if done else _progress(runs)),
        runs=runs,
        budget="",
        metric=fmean(values) if values else None,
        metric_std=stdev(values) if len(values) > 1 else 0.0,
        initial=_initial(runs),
        bytes_up=fmean(run.bytes_up for run in runs),
        bytes_down=fmean(run.bytes_down for run in runs),
        factor=fmean(factors) if len(factors) == len(runs) else None,
        rounds=min(run.rounds_done for run in runs),
        seconds=fmean(sum(record["seconds"] for record in run.records) for run in runs),
        learning_rate=first.setting("optimizer.learning_rate"),
        key=_key(first),
        title=str(first.setting("title") or first.folder.name),
        metric_name=metric_name,
        higher_is_better=next(
            (bool(s[k]) for s in summaries if (k := "higher_is_better") in s), metric_name not in _FALLING
        ),
    )


def _progress(runs: Sequence[RunLog]) -> str:
    broken = [run for run in runs if run.broke_down]
    if broken:
        return f"training broke down in round {broken[0].rounds_done:,}"
    behind = min((run for run in runs if run.summary is None), key=lambda run: run.rounds_done)
    return f"in progress: round {behind.rounds_done:,} of {behind.rounds:,}"


def _not_finite(run: RunLog) -> str:
    name = (run.summary or {}).get("metric_name", "the metric")
    return f"{name} is not finite after the last round, under seed {run.seed}"


def _initial(runs: Sequence[RunLog]) -> float | None:
    first = [record["metric"] for run in runs for record in run.evaluated[:1] if record["round"] == 0]
    return fmean(first) if first else None


def _settings(run: RunLog) -> dict[str, Any]:
    """All settings by dotted key, less those that do not matter to what is compared."""
    return {key: value for key, value in flat(run.recipe).items() if key not in ("seed", "title")}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """The same entries, those of one name and key with the settings in which they differ, or else their folders."""
    named = []
    for entry in entries:
        alike = [other for other in entries if (other.name, other.key) == (entry.name, entry.key)]
        if len(alike) > 1:
            mine, others = _settings(entry.runs[0]), [_settings(other.runs[0]) for other in alike]
            differs = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
            if "federation.rounds" in differs and "optimizer.warmup_rounds" in differs:
                differs.remove("optimizer.warmup_rounds")  # --rounds shortens it
            shown = [f"{key.rpartition('.')[2]}={mine[key]}" for key in differs if not key.startswith("evaluation.")]
            extra = ", ".join(shown[:_NAMES_MANY]) or entry.runs[0].folder.name
            named.append(replace(entry, name=f"{entry.name}, {extra}"))
        else:
            named.append(entry)
    clashes = {entry.name for entry in named if sum(e.name == entry.name and e.key == entry.key for e in named) > 1}
    return [replace(e, name=f"{e.name} ({e.runs[0].folder.name})") if e.name in clashes else e for e in named]


# Groups


def _key(run: RunLog) -> str:
    """What a run trains on and how it is measured; its method and its pace are left out."""
    measured = [run.setting("evaluation.max_examples"), (run.setting("evaluation.splits") or [None])[0]]
    what = [run.setting("task"), run.setting("model.source"), run.setting("data")]
    return json.dumps([*what, *measured], sort_keys=True, default=str)


def _groups(entries: Sequence[Entry]) -> list[Group]:
    groups = []
    for key in dict.fromkeys(entry.key for entry in entries):
        members = [entry for entry in entries if entry.key == key]
        higher = next((entry.higher_is_better for entry in members if entry.metric_name), True)

        def rank(entry: Entry, higher: bool = higher) -> tuple[bool, bool, float, float]:
            metric = 0.0 if entry.metric is None else -entry.metric if higher else entry.metric
            return entry.metric is None, not entry.done, metric, entry.total

        title = min((entry.title for entry in members), key=len)
        groups.append(Group(title, tuple(sorted(members, key=rank))))
    titles = [group.title for group in groups]
    return [group if titles.count(group.title) == 1 else replace(group, title=_measured(group)) for group in groups]


def _measured(group: Group) -> str:
    """The title with what the measure was taken on, where another group has the same."""
    runs = [run for entry in group.entries for run in entry.runs]
    most = runs[0].setting("evaluation.max_examples") if runs else None
    split = (runs[0].setting("evaluation.splits") or ["its split"])[0] if runs else "its split"
    return f"{group.title}, measured on {f'at most {most:,}' if most else 'all'} examples of {split}"


def _toml(path: Path) -> dict[str, Any]:
    remedy = "put it back or leave it out"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; {remedy}") from error
    check(found, OF_A_RECIPE, str(path), remedy)
    return found


def _json(path: Path, remedy: str = _ANEW) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; {remedy}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} does not hold what it should; {remedy}")
    return found
