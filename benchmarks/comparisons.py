"""The tables of docs/results.md: every method, tuned alike, on three tasks, at equal rounds and at equal bytes.

    python benchmarks/comparisons.py [TASK ...] [--max-hours H] [--jobs N]

Runs `igc compare` into ``runs/comparisons/TASK/``, going on where it was stopped; then writes ``docs/results/TASK.json``
(the comparison's own ``comparison.json``) and the tables of ``docs/results.md`` between their markers.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igc.experiments.compare.comparison import JSON, read
from igc.experiments.format import format_bytes, format_duration, format_factor, format_metric

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "comparisons"
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"


@dataclass(frozen=True)
class Grid:
    """A task's comparison: options of `igc compare`, once for each entry of ``parts``.

    Attributes:
        recipe: what all have in common.
        options: of every part.
        parts: methods and further options, the most telling first: time may end.
    """

    recipe: str
    options: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]


_MOVIES = ("--rounds", "30", "--trials", "3", "--set", "evaluation.every=30", "--set", "evaluation.max_examples=500")
_PARTS = ("--rounds", "30", "--trials", "2", "--seeds", "3", "--set", "evaluation.every=30")
_IMAGES = ("--rounds", "60", "--trials", "3", "--set", "evaluation.every=60", "--set", "evaluation.max_examples=2000")
_PLAYS = ("--trials", "2", "--set", "evaluation.every=30", "--validation", "held-out-lines")
_FAST = "optimizer.learning_rate=5e-4"
_SMALL = "static+method.dim=1024+optimizer.learning_rate=1.58e-3"
_SCALED = f"{_SMALL}+method.scale=calibrated"
_AT_EQUAL_BYTES = "static-1bit+codec.down=eden-4,static,static-1bit,uni-lora,fedavg-lora,decomfl,random-k,local-top-k"

GRIDS = {
    "movie-reviews": Grid(
        "movie-reviews",
        _MOVIES,
        (
            ("--methods", "static,fedsgd,local-top-k,fedavg-lora,static+method.dim=1024,static-1bit+method.dim=1024"),
            ("--methods", "time-varying,k-subspace,static-1bit,fetchsgd"),
            ("--methods", "static-1bit+codec.down=int8,static-1bit+codec.down=eden-4,powersgd,ffa-lora,uni-lora"),
            (
                "--methods",
                "local-top-k+optimizer.name=adam+optimizer.learning_rate=0.000158,random-k,gpart,true-top-k,int4",
            ),
            ("--methods", "static-1bit+method.dim=4096+codec.down=eden-4,fedavg,decomfl,qsgd,fedprox,eden"),
        ),
    ),
    "movie-reviews-parts": Grid(
        "movie-reviews",
        (*_PARTS, "--set", "evaluation.max_examples=1000"),
        (
            (
                "--methods",
                f"static+{_FAST},static-1bit+codec.down=eden-4+{_FAST},fedsgd+optimizer.learning_rate=5e-5",
            ),
            ("--methods", f"{_SMALL},{_SMALL}+codec.up=eden-1+codec.down=eden-4"),
            ("--methods", f"{_SCALED},{_SCALED}+method.scale_exponent=0.5"),
            ("--methods", f'{_SMALL}+space.exclude=["*embeddings*"],{_SMALL}+method.full=["classifier.*"]'),
            ("--methods", f"{_SMALL}+model.lora_rank=8,{_SMALL}+optimizer.name=yogi"),
            ("--methods", f"{_SMALL}+codec.up=eden-1,{_SMALL}+method.scale=weights"),
        ),
    ),
    "movie-reviews-bytes": Grid(
        "movie-reviews",
        ("--rounds", "60", "--trials", "3", "--set", "evaluation.every=60", "--set", "evaluation.max_examples=1000"),
        tuple(
            ("--budget", str(budget), "--methods", f"{_AT_EQUAL_BYTES},{_SMALL}+codec.up=eden-1+codec.down=eden-4")
            for budget in (5_000_000, 200_000)
        ),
    ),
    "fashion-mnist": Grid(
        "fashion-mnist",
        _IMAGES,
        (
            ("--methods", "static,fedsgd,static-1bit+codec.down=eden-4,fedavg,local-top-k,powersgd,fetchsgd"),
            ("--methods", "time-varying,k-subspace,random-k,gpart,true-top-k,int4,fedprox,qsgd,eden,decomfl"),
        ),
    ),
    "shakespeare": Grid(
        "shakespeare",
        ("--rounds", "30", *_PLAYS),
        (
            ("--methods", "static-1bit+codec.down=eden-4+method.dim=131072,fedsgd,static,fedavg-lora"),
            ("--methods", "static-1bit,uni-lora"),
        ),
    ),
}


def main() -> None:
    """Compare what is not compared yet, as far as time allows, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[*GRIDS, []], help="all by default")
    parser.add_argument("--max-hours", type=float)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    deadline = None if asked.max_hours is None else time.monotonic() + 3600 * asked.max_hours
    for task in asked.tasks or GRIDS:
        grid = GRIDS[task]
        for part in grid.parts:
            left = None if deadline is None else max(deadline - time.monotonic(), 0) / 3600
            compare(grid.recipe, RUNS / task, (*grid.options, *part), asked.jobs, left)
        publish(task)


def compare(recipe: str, folder: Path, options: tuple[str, ...], jobs: int, hours: float | None) -> None:
    """Run `igc compare`; an entrant that fails is left for the next time."""
    command = [sys.executable, "-c", "from igc.cli import main; main()", "compare", recipe, "--out", str(folder)]
    limits = [] if hours is None else ["--max-hours", f"{hours:.4f}"]
    subprocess.run([*command, *options, "--jobs", str(jobs), *limits], check=False)


def publish(task: str) -> None:
    """Copy a comparison's results into the docs, and rewrite its tables."""
    lines = read(RUNS / task)
    if not lines:
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{task}.json").write_bytes((RUNS / task / JSON).read_bytes())
    tables = "\n\n".join(table(group) for group in grouped(lines))
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {task} -->", f"<!-- end of {task} -->"
    found = re.sub(f"(?s){re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{tables}\n{end}", page)
    PAGE.write_text(found, encoding="utf-8")


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
        f"| method | {name} | up | down | total | fewer | rate | time a run |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    higher = any(line["higher_is_better"] for line in lines)
    done = sorted((ln for ln in lines if ln["metric"] is not None), key=lambda ln: ln["metric"], reverse=higher)
    for line in done:
        spread = f" ± {format_metric(line['metric_std'])}" if line["seeds"] > 1 else ""
        up, down = line["bytes_up"], line["bytes_down"]
        cells = (
            f"`{line['method']}`",
            format_metric(line["metric"]) + spread,
            format_bytes(up),
            format_bytes(down),
            format_bytes(up + down),
            "-" if line["factor"] is None else format_factor(line["factor"]),
            f"{line['learning_rate']:g}",
            format_duration(line["seconds"]),
        )
        rows.append(f"| {' | '.join(cells)} |")
    rows += [f"| `{line['method']}` | {line['status']} | | | | | | |" for line in lines if line["metric"] is None]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
