"""`igc deploy`: commands only."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from igc.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from igc.experiments.progress import Observer
    from igc.experiments.run import Run

app = typer.Typer(name="deploy", help="Take a recipe to a federation of machines.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Take a recipe to a federation of machines."""  # one command alone would take the group's place


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write the project; its name becomes the app's.")],
    recipe: Annotated[str, typer.Option(help="A shipped recipe (see `igc recipes`) or a TOML file.")] = "movie-reviews",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any setting of the recipe.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="SuperNodes to deal the recipe's clients out to.")] = 2,
    clients: Annotated[
        str, typer.Option(metavar="NAME,...", help="Clients that bring data of their own, in place of the recipe's.")
    ] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the SuperLink.")] = 8000,
) -> None:
    """Write a Flower project for a recipe; its README says how to run it in three terminals."""
    from igc.deployment.flower.project import write_project
    from igc.deployment.flower.settings import RunSettings
    from igc.experiments.recipe import load

    # A server that dies costs no more than the round at hand.
    chosen = load(recipe, ["checkpoint.every=1", *(settings or [])])
    files = write_project(folder, chosen, RunSettings(clients=clients), nodes, port)
    console = Console()
    for file in files:
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nnext: cd {quote(str(folder))} and follow README.md", markup=False, highlight=False)


federation = typer.Typer(
    name="federation", help="Look at a federation that trains, or has trained.", no_args_is_help=True
)


@federation.callback()
def federation_group() -> None:
    """Look at a federation that trains, or has trained."""


@federation.command()
def status(
    run: Annotated[Path, typer.Argument(help="The run's folder on the server (`out`).")],
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Nodes, rounds, bytes, metric, rejected uploads, and what went wrong lately."""
    from igc.deployment.status import read_status, show

    console = Console()
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(read_status(run)), default=str))
        return
    if not watch:
        console.print(show(read_status(run), datetime.now(UTC)))
        return
    with Live(show(read_status(run), datetime.now(UTC)), console=console) as live:
        while True:
            time.sleep(2)
            live.update(show(read_status(run), datetime.now(UTC)))


def simulator() -> Callable[[Run, Observer], dict[str, Any]]:
    """`igc.deployment.flower.simulation.simulate`, which trains in Flower's simulation, if that is installed.

    Raises:
        RunError: Flower or Ray is not installed.
    """
    for module in ("flwr", "ray"):
        if importlib.util.find_spec(module) is None:
            remedy = "pip install 'intrinsic-gradient-compression[flower-sim]'"
            raise RunError(f"--engine flower-sim needs {module}: {remedy}")
    from igc.deployment.flower import simulation

    return simulation.simulate
