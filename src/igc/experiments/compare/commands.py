"""`igc compare`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.console import Console

from igc.experiments.size import size

_OWN = "static,time-varying,k-subspace,fedsgd,fedavg"


def compare(
    recipe: Annotated[str, typer.Argument(help="What all have in common: a shipped recipe or a TOML file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any setting, for all alike.")
    ] = None,
    methods: Annotated[
        str,
        typer.Option(help="Who takes part, by commas; NAME+KEY=VALUE with another setting; 'all'; 'list' lists them."),
    ] = _OWN,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each run (at most, with --budget).")] = None,
    budget: Annotated[
        int | None,
        typer.Option(parser=size, metavar="BYTES", help="What a run may cost, all clients, up and down; 5MB, say."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method at its chosen learning rate.")] = 1,
    tune: Annotated[bool, typer.Option(help="Choose each learning rate on a validation split.")] = True,
    trials: Annotated[int, typer.Option(min=2, help="Learning rates that each method may try.")] = 3,
    validation: Annotated[
        str | None, typer.Option(help="The split that chooses; the recipe's second, or 'validation'.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; runs/compare-RECIPE by default.")] = None,
    max_hours: Annotated[float | None, typer.Option(min=0, help="Stop then; the same command goes on.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Methods that train side by side.")] = 1,
) -> None:
    """Train by several methods, each tuned alike; print and write what each reached, and for how many bytes.

    The same command goes on where it was stopped or killed. With --budget, every method trains for as many rounds as the
    bytes allow.
    """
    from igc.experiments.compare.entrants import ENTRANTS, entrants, everybody, fitting

    console, errors = Console(), Console(stderr=True)
    if methods == "list":
        for entrant in ENTRANTS.values():
            console.print(f"{entrant.name:16} {entrant.about}", markup=False, highlight=False, soft_wrap=True)
        return

    from igc.errors import RecipeError
    from igc.experiments.compare import JSON
    from igc.experiments.compare.campaign import Terms
    from igc.experiments.compare.comparison import CSV
    from igc.experiments.compare.comparison import compare as run
    from igc.experiments.compare.execute import Executor, deadline_in, threads_for
    from igc.experiments.compare.names import names
    from igc.experiments.compare.table import AtWork, table
    from igc.experiments.recipe import load, parse_override

    if not names(methods):
        raise RecipeError("--methods: names nobody; give one method or more by commas, `--methods list` lists them")
    base = load(recipe, settings or [])
    given = frozenset(".".join(parse_override(text)[0]) for text in settings or [])
    if methods == "all":
        chosen, misfits = fitting(everybody(given), base, rounds or base.federation.rounds)
        for why, who in misfits.items():
            errors.print(f"left out {', '.join(who)}: {why}", style="yellow", markup=False, soft_wrap=True)
    else:
        chosen = entrants(names(methods), given)
    test, *others = base.evaluation.splits
    chooses = (validation or (others or ["validation"])[0]) if tune else None
    terms = Terms(rounds or base.federation.rounds, budget, seeds, trials if tune else 1, test, chooses)
    executor = Executor(threads_for(jobs), deadline_in(max_hours))
    folder = out or Path("runs") / f"compare-{Path(recipe).stem}"
    try:
        with AtWork(errors) as at_work:
            lines, unfinished, failures = run(base, chosen, terms, folder, executor, jobs, at_work.say)
    except KeyboardInterrupt:
        going_on = f"interrupted; the same command goes on from {folder}"
        errors.print(going_on, style="yellow", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(130) from None
    for found in table(lines):
        console.print(found)
        console.print()
    if lines:
        console.print(f"written  {folder / JSON}  {folder / CSV}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"next: igc report {quote(str(folder))}", markup=False, highlight=False, soft_wrap=True)
    for name, error in failures.items():
        errors.print(f"failed  {name}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    if unfinished:
        late = f"not done, time is up: {', '.join(unfinished)}; the same command goes on"
        errors.print(late, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if failures:
        raise SystemExit(2)
