"""The figures and the picture of the README: the default run, the paper's methods, uncompressed training, Shakespeare.

    python benchmarks/paper_methods.py            # about 20 minutes on two cores; goes on where it was stopped

Trains shipped recipes one after the other into ``runs/paper-methods/``, then writes ``docs/results/paper-methods.json``
(each run's summary) and ``docs/images/paper-methods.svg`` and ``.png``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from igc.experiments import metrics
from igc.experiments.format import format_bytes
from igc.experiments.progress import observer
from igc.experiments.recipe import Recipe, load, override
from igc.experiments.run import RECIPE, SUMMARY, Run

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "paper-methods"


class Row(NamedTuple):
    """A run: a shipped recipe, settings on top, and how the picture shows it, if at all."""

    recipe: str
    settings: Mapping[str, Any] = {}
    label: str = ""
    colour: str = ""


AS_IN_THE_PAPER = {"codec.up": "float32", "codec.down": "float32"}
ROWS = {
    "movie-reviews": Row("movie-reviews", {}, "the default: local steps, 1 bit up, 3 bits down", "#cc79a7"),
    "movie-reviews-static": Row("movie-reviews-static", {}, "static", "#0072b2"),
    "movie-reviews-time-varying": Row("movie-reviews-time-varying", {}, "time-varying", "#009e73"),
    "movie-reviews-k-subspace": Row("movie-reviews-k-subspace", {}, "k-subspace, K = 4", "#d55e00"),
    "movie-reviews-fedsgd": Row("movie-reviews-fedsgd", {}, "uncompressed", "#555555"),
    "shakespeare": Row("shakespeare-static", {**AS_IN_THE_PAPER, "method.dim": 16384}),
}


def main() -> None:
    """Train what is not trained yet, then write the results."""
    summaries = {name: trained(name) for name in ROWS}
    target = ROOT / "docs" / "results" / "paper-methods.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(list(summaries.values()), indent=2) + "\n")
    draw(ROOT / "docs" / "images")
    for name, summary in summaries.items():
        up, down = (format_bytes(summary[f"bytes_per_message_{way}"]) for way in ("up", "down"))
        total = format_bytes(summary["bytes_up"] + summary["bytes_down"])
        metric = f"{summary['metric_name']} {summary['final_metric']:.3f}"
        print(
            f"{name:28} {metric:18} {up:>8} up {down:>8} down a message  {total:>8} total  {summary['seconds']:.0f} s"
        )


def trained(name: str) -> dict[str, Any]:
    """The summary of a row's run; trained now, or gone on with, if need be."""
    folder = RUNS / name
    if (folder / RECIPE).exists():
        run = Run.open(folder)
    else:
        tree = load(ROWS[name].recipe).to_dict()
        override(tree, [(key.split("."), value) for key, value in ROWS[name].settings.items()])
        run = Run.create(Recipe.from_dict(tree), folder)
    return run.summary if (folder / SUMMARY).exists() else run.train(observer())


def draw(folder: Path) -> None:
    """Accuracy against bytes, all methods in one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, (_, _, label, colour) in ROWS.items():
        if not label:
            continue
        evaluated = [
            r for r in metrics.read(RUNS / name / "metrics.jsonl") if r.get("metric") is not None and r["round"]
        ]
        x = [r["total_up"] + r["total_down"] for r in evaluated]
        y = [r["metric"] for r in evaluated]
        axes.plot(x, y, color=colour, marker="o", markersize=4, linewidth=2, label=f"{label}: {y[-1]:.3f}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: format_bytes(value).replace(".00", "").replace(".0", ""))
    axes.set_xlabel("bytes sent so far, up and down, all clients")
    axes.set_ylabel("test accuracy")
    axes.legend(loc="lower center", frameon=False, title="after 100 rounds", alignment="left")
    axes.grid(axis="y", color="#e6e6e6")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Movie reviews, MiniLM (22.6M parameters, all trained), 100 rounds", loc="left", fontsize=11)
    figure.savefig(folder / "paper-methods.png", dpi=150)
    figure.savefig(folder / "paper-methods.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
