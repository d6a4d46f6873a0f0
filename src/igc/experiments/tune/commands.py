"""`igc tune`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from igc.errors import RunError
from igc.experiments.size import size


def tune(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a TOML file.")],
    bytes_: Annotated[
        int,
        typer.Option(
            "--bytes", parser=size, metavar="BYTES", help="What a run may cost, up and down, as serialised; 5MB, say."
        ),
    ],
    per: Annotated[
        Literal["total", "client"],
        typer.Option(help="Whose bytes: of all clients together, or of the client that has most."),
    ] = "total",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any setting; it is then not tuned.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Combinations to try, in all.")] = 24,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of a run at most; the recipe's.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="The split that chooses; the recipe's second, or 'validation'; never its first.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/tune-RECIPE by default.")] = None,
    max_hours: Annotated[float | None, typer.Option(min=0, help="Stop then; the same command goes on.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials that train side by side.")] = 1,
) -> None:
    """Find the recipe that does best for a budget of bytes: d, codecs, method, local steps, schedule, learning rate.

    Trials that do worse than most are stopped early. The same command goes on where it was stopped or killed; more
    --trials add to what was tried.
    """
    if find_spec("optuna") is None:
        raise RunError("igc tune needs the package 'optuna': pip install 'intrinsic-gradient-compression[tune]'")

    from igc.experiments.compare.execute import Executor, deadline_in, threads_for
    from igc.experiments.compare.table import AtWork
    from igc.experiments.recipe import load, parse_override
    from igc.experiments.tune import JSON
    from igc.experiments.tune.budget import Budget
    from igc.experiments.tune.tuner import BEST, Terms, Tuner, read, trials_of

    console, errors = Console(), Console(stderr=True)
    base = load(recipe, settings or [])
    _, *others = base.evaluation.splits
    pinned = frozenset(".".join(parse_override(text)[0]) for text in settings or [])
    chooses = validation or (others or ["validation"])[0]
    terms = Terms(Budget(bytes_, per), trials, rounds or base.federation.rounds, chooses, pinned)
    executor = Executor(threads_for(jobs), deadline_in(max_hours))
    folder = out or Path("runs") / f"tune-{Path(recipe).stem}"
    try:
        with AtWork(errors) as at_work:
            tuner = Tuner(base, terms, folder, executor, at_work.say)
            done = tuner.run(jobs)
    except KeyboardInterrupt:
        going_on = f"interrupted; the same command goes on from {folder}"
        errors.print(going_on, style="yellow", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(130) from None
    if done:
        tuner.test()
    content = read(folder)
    console.print(_table(content))
    if content["best"] is None and done:
        errors.print("no trial was accepted; try more --trials", style="yellow")
    elif content["best"] is not None:
        verdict = Text(_verdict(content, base.evaluation.splits[0]), style="bold")
        console.print(verdict, soft_wrap=True)
        console.print(f"written  {folder / BEST}  {folder / JSON}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"next: igc train {quote(str(folder / BEST))}", markup=False, highlight=False, soft_wrap=True)
    made = len(trials_of(content))
    if done and made < trials:
        errors.print(f"{made} of {trials} trials: no others were found that differ", style="yellow")
    if not done:
        errors.print("not done, time is up; the same command goes on", style="yellow")


def _table(content: Mapping[str, Any]) -> Table:
    from igc.experiments.format import format_bytes, format_metric
    from igc.experiments.tune.tuner import trials_of

    table = Table(box=None, pad_edge=False)
    table.add_column("trial", justify="right")
    for column in (f"{content.get('metric_name', 'metric')}, {content.get('validation', '')}", "bytes", "rounds"):
        table.add_column(Text(column), justify="right", no_wrap=True)
    table.add_column("what")
    for line in trials_of(content):
        whole = line["metric"] is not None
        table.add_row(
            str(line["trial"]),
            format_metric(line["metric"] if whole else line["reached"]),
            "-" if line["bytes"] is None else format_bytes(line["bytes"]),
            f"{line['rounds']:,}",
            Text(line["about"] if whole else f"{line['about']}: {line['status']}"),
            style="" if whole else "dim",
        )
    return table


def _verdict(content: Mapping[str, Any], headline: str) -> str:
    from igc.experiments.format import format_bytes, format_metric

    best, name = content["best"], content["metric_name"]
    whose = "all clients together" if content["scope"] == "total" else "the client that has most"
    tested = ""
    if "metrics" in best:
        tested = f", {format_metric(best['metrics'][headline][name])} on {headline}"
    return (
        f"best: {best['about']}\n{name} {format_metric(best['metric'])} on {content['validation']}{tested}, for"
        f" {format_bytes(best['bytes'])} of {format_bytes(content['bytes'])}, {whose}"
    )
