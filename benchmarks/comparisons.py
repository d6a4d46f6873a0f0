"""The tables of docs/results.md: every method, tuned alike, on three tasks, at equal rounds and at equal bytes.

    python benchmarks/comparisons.py [GRID ...] [--max-hours H] [--jobs N] [--again | --finals]

Runs `igc compare` into ``runs/comparisons/GRID/``, going on where it was stopped; then puts the objects of its
``comparison.json`` into ``docs/results/GRID.json`` and rewrites the tables of ``docs/results.md`` between their markers.
Methods that ``docs/results`` has already, from whatever machine, are run anew with --again alone, or with --finals, which
keeps their trials and runs anew what is reported, into ``runs/comparisons/GRID-finals/``, in a third of the time.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from grids import CALLED, GRIDS  # type: ignore[import-not-found]

from igc.experiments.compare.comparison import read
from igc.experiments.compare.entrant import LOCAL_RATE, RATE
from igc.experiments.compare.entrants import ENTRANTS
from igc.experiments.compare.names import names, parts
from igc.experiments.format import format_bytes, format_duration, format_factor, format_metric

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "comparisons"
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"


def main() -> None:
    """Compare what is not compared yet, as far as time allows, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*GRIDS, []], help="all by default")
    parser.add_argument("--max-hours", type=float)
    parser.add_argument("--jobs", type=int, default=2)
    anew = parser.add_mutually_exclusive_group()
    anew.add_argument("--again", action="store_true", help="also what docs/results has already")
    anew.add_argument("--finals", action="store_true", help="what docs/results has, at the rates that its trials chose")
    asked = parser.parse_args()
    deadline = None if asked.max_hours is None else time.monotonic() + 3600 * asked.max_hours
    failed = 0
    for task in asked.tasks or GRIDS:
        grid = GRIDS[task]
        lines = {line["method"]: line for line in known(task) if grid.has(line)}
        folder = finals(task) if asked.finals else RUNS / task
        options = replace(grid, trials=1).options if asked.finals else grid.options
        for group in grid.methods:
            if asked.finals:
                methods = [at_its_rate(lines[method]) for method in names(group) if method in lines]
            else:
                methods = [method for method in names(group) if asked.again or method not in lines]
            left = None if deadline is None else max(deadline - time.monotonic(), 0) / 3600
            if methods and left != 0:
                failed |= compare(grid.recipe, folder, [*options, "--methods", ",".join(methods)], asked.jobs, left)
            publish(task, run_anew(task) if asked.finals else read(folder))
    sys.exit(failed)


def compare(recipe: str, folder: Path, options: list[str], jobs: int, hours: float | None) -> int:
    """Run `igc compare`; an entrant that fails is left for the next time. Returns the exit code."""
    command = [sys.executable, "-c", "from igc.cli import main; main()", "compare", recipe, "--out", str(folder)]
    limits = [] if hours is None else ["--max-hours", f"{hours:.4f}"]
    return subprocess.run([*command, *options, "--jobs", str(jobs), *limits], check=False).returncode


def finals(task: str) -> Path:
    """Where runs at rates of earlier trials go."""
    return RUNS / f"{task}-finals"


def at_its_rate(line: dict[str, Any]) -> str:
    """The entrant that a line is of, begun at the rate that it was reported at."""
    plain, *settings = parts(line["method"])
    if line["learning_rate"] is None:  # its budget paid for nothing
        return str(line["method"])
    key = ENTRANTS[plain].tuned
    return "+".join([plain, *(s for s in settings if not s.startswith(f"{key}=")), f"{key}={line['learning_rate']!r}"])


def run_anew(task: str) -> list[dict[str, Any]]:
    """The lines of ``docs/results`` that were run once more at their rates, as they came out; trials stay."""
    found = {line["method"]: line for line in read(finals(task))}
    twins = [(line, found[name]) for line in known(task) if (name := at_its_rate(line)) in found]
    return [{**new, **{key: old[key] for key in ("method", "label", "trials")}} for old, new in twins]


def publish(task: str, found: list[dict[str, Any]]) -> None:
    """Put lines of a comparison into the docs, beside what other machines ran of it, and rewrite its tables."""
    asked = {method for group in GRIDS[task].methods for method in names(group)}
    lines = [*(line for line in known(task) if all(who(line) != who(new) for new in found)), *found]
    lines = [line for line in lines if line["method"] in asked]
    if not lines:
        return
    page = PAGE.read_text(encoding="utf-8")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{task}.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    tables = "\n\n".join(table(group) for group in grouped(lines))
    begin, end = f"<!-- {task} -->", f"<!-- end of {task} -->"
    pattern = f"(?s){re.escape(begin)}.*?{re.escape(end)}"
    page, places = re.subn(pattern, lambda _: f"{begin}\n{tables}\n{end}", page)
    if places != 1:
        sys.exit(f"{PAGE} has no place for {task}: write {begin} and {end} where its table should stand")
    PAGE.write_text(page, encoding="utf-8")


def known(task: str) -> list[dict[str, Any]]:
    """What ``docs/results`` has of a grid."""
    file = RESULTS / f"{task}.json"
    lines: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return lines


def who(line: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two lines the same experiment."""
    return line["method"], line["budget"], line["budget_bytes"], line["rounds"] if line["budget"] == "rounds" else None


def grouped(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Lines of one budget together."""
    budgets = dict.fromkeys((line["budget"], line["budget_bytes"] or line["rounds"]) for line in lines)
    return [[ln for ln in lines if (ln["budget"], ln["budget_bytes"] or ln["rounds"]) == budget] for budget in budgets]


def table(lines: list[dict[str, Any]]) -> str:
    """One budget's table, the best method first."""
    first = lines[0]
    limit = (
        f"{first['rounds']} rounds each"
        if first["budget"] == "rounds"
        else f"at most {format_bytes(first['budget_bytes'])}"
    )
    name = next((line["metric_name"] for line in lines if line["metric_name"]), "metric")
    rows = [
        f"**{limit}**",
        "",
        f"| method | {name} | up | down | total | fewer | rounds | rate | time a run |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    higher = any(line["higher_is_better"] for line in lines)
    done = sorted((ln for ln in lines if ln["metric"] is not None), key=lambda ln: ln["metric"], reverse=higher)
    for line in done:
        spread = f" ± {format_metric(line['metric_std'])}" if line["seeds"] > 1 else ""
        up, down = line["bytes_up"], line["bytes_down"]
        cells = (
            shown(line),
            format_metric(line["metric"]) + spread,
            format_bytes(up),
            format_bytes(down),
            format_bytes(up + down),
            "-" if line["factor"] is None else format_factor(line["factor"]),
            f"{line['rounds']:,}",
            f"{line['learning_rate']:g}{edge(line)}",
            format_duration(line["seconds"]) + on_gpu(line),
        )
        rows.append(f"| {' | '.join(cells)} |")
    rows += [f"| {shown(line)} | {line['status']} | | | | | | | |" for line in lines if line["metric"] is None]
    return "\n".join(rows)


def edge(line: dict[str, Any]) -> str:
    """An arrow where the best rate was the lowest or the highest tried: a better one may lie beyond."""
    rates = [trial["learning_rate"] for trial in line["trials"]]
    if len(rates) < 2:
        return ""
    return {min(rates): " ↓", max(rates): " ↑"}.get(line["learning_rate"], "")


def on_gpu(line: dict[str, Any]) -> str:
    """The GPU's name, where one computed; lines from before devices were noted are the CPU's."""
    device = line.get("device") or "CPU"
    return "" if device == "CPU" else f", {device.removeprefix('NVIDIA ')}"


def shown(line: dict[str, Any]) -> str:
    """The method with its settings, but for the rate that tuning began at; what has a name of its own, by that."""
    if line["method"] in CALLED:
        return str(CALLED[line["method"]])
    kept = [part for part in parts(line["method"]) if not part.startswith((f"{RATE}=", f"{LOCAL_RATE}="))]
    return f"`{'+'.join(kept)}`"


if __name__ == "__main__":
    main()
