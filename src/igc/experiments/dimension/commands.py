"""`igc dimension`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from igc.experiments.dimension.study import Study

_MEASURES = ("ratio", "gain")


def dimension(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a TOML file; its method is replaced.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any setting, for all runs.")
    ] = None,
    target: Annotated[float, typer.Option(min=0, max=1, help="Share of the uncompressed quality to reach.")] = 0.9,
    measure: Annotated[
        str | None, typer.Option(help="'ratio' of metrics (d90 of Li et al.), or of the 'gain' over no training.")
    ] = None,
    start: Annotated[int, typer.Option(min=1, help="The first d.")] = 256,
    resolution: Annotated[float, typer.Option(help="Stop once d is known within this factor.")] = 1.25,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each run.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs at each d.")] = 1,
    tune: Annotated[bool, typer.Option(help="Choose each learning rate on a validation split.")] = True,
    trials: Annotated[int, typer.Option(min=2, help="Learning rates tried at each d.")] = 3,
    validation: Annotated[
        str | None, typer.Option(help="The split that chooses a rate, not the recipe's first.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/dimension-RECIPE by default.")] = None,
    max_hours: Annotated[float | None, typer.Option(min=0, help="Stop then; the same command goes on.")] = None,
) -> None:
    """Find the smallest d that trains as well as asked: the intrinsic dimension of a recipe's problem.

    Trains uncompressed, then in random subspaces: d is bracketed by factors of four, then the bracket is halved on a log
    scale. The same command goes on where it was stopped or killed.
    """
    if not 0 <= target <= 1:  # NaN is within no limits, and typer lets it pass
        raise typer.BadParameter("must be from 0 to 1", param_hint="--target")
    if not resolution > 1:
        raise typer.BadParameter("must be above 1", param_hint="--resolution")
    if measure is not None and measure not in _MEASURES:
        raise typer.BadParameter(f"must be one of {', '.join(_MEASURES)}", param_hint="--measure")

    from igc.experiments.compare.campaign import Terms
    from igc.experiments.compare.execute import Executor, deadline_in, threads_for
    from igc.experiments.compare.table import AtWork
    from igc.experiments.dimension.plot import write_plot
    from igc.experiments.dimension.study import JSON, study
    from igc.experiments.recipe import load, parse_override

    console, errors = Console(), Console(stderr=True)
    base = load(recipe, settings or [])
    given = frozenset(".".join(parse_override(text)[0]) for text in settings or [])
    test, *others = base.evaluation.splits
    chooses = (validation or (others or ["validation"])[0]) if tune else None
    terms = Terms(rounds or base.federation.rounds, None, seeds, trials if tune else 1, test, chooses)
    executor = Executor(threads_for(1), deadline_in(max_hours))
    folder = out or Path("runs") / f"dimension-{Path(recipe).stem}"
    kind: Any = measure
    try:
        with AtWork(errors) as at_work:
            known, done = study(
                base,
                terms,
                target,
                kind,
                start,
                resolution,
                folder,
                executor,
                at_work.say,
                lambda known: write_plot(folder, known),
                given,
            )
    except KeyboardInterrupt:
        going_on = f"interrupted; the same command goes on from {folder}"
        errors.print(going_on, style="yellow", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(130) from None
    if known is not None:
        console.print(_table(known))
        console.print(_verdict(known, done), style="bold", highlight=False, soft_wrap=True)
        written = f"written  {folder / JSON}  {folder / 'dimension.png'}"
        console.print(written, markup=False, highlight=False, soft_wrap=True)
    if not done:
        errors.print("not done, time is up; the same command goes on", style="yellow")


def _table(known: Study) -> Table:
    from igc.experiments.format import format_bytes, format_metric

    table = Table(box=None, pad_edge=False)
    for column in ("d", known.metric_name, "quality", "rate", "bytes"):
        table.add_column(column, justify="right")
    for point in known.points:
        spread = f" ± {format_metric(point.metric_std)}" if point.metric_std else ""
        table.add_row(
            f"{point.d:,}",
            "broke down" if point.metric is None else format_metric(point.metric) + spread,
            "-" if point.quality is None else f"{point.quality:.1%}",
            f"{point.learning_rate:g}",
            "-" if point.bytes is None else format_bytes(point.bytes),
            style="green" if point.reached else "",
        )
    table.add_row(f"{known.D:,}", format_metric(known.uncompressed), "100.0%", "", "")
    return table


def _verdict(known: Study, done: bool) -> str:
    what = f"{'gain in ' if known.measure == 'gain' else ''}{known.metric_name}"
    goal = f"{100 * known.target:g}% of the uncompressed {what} ({known.bar:.4g})"
    if known.d is None:
        return f"no d tried reaches {goal}"
    below = "" if known.fails is None else f"; {known.fails:,} does not"
    return f"{'d' if done else 'so far, d'} = {known.d:,} reaches {goal}{below}"
