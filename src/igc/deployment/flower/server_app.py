"""The ServerApp: the run loop of ``igc train``, with Flower's grid for an engine."""

from __future__ import annotations

import dataclasses
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from igc.deployment.events import EventLog, EventObserver, Tell, this_process
from igc.deployment.flower.engine import FlowerEngine
from igc.deployment.flower.heard import Heard
from igc.deployment.flower.owners import CLAIMS, Claims, Owners
from igc.deployment.flower.roll import Carrier, Roll
from igc.deployment.flower.settings import RunSettings
from igc.deployment.flower.sides import server_side
from igc.deployment.flower.timely import Timely
from igc.errors import IgcError, RunError, TrainingError
from igc.experiments.assemble import Experiment
from igc.experiments.atomic import write_atomically
from igc.experiments.progress import Observer
from igc.experiments.recipe import RECIPE, Recipe, load
from igc.experiments.run import Run

SESSION: Final = "session"
_AGAIN: Final = "start the run again"


def server_app(recipe: Path) -> ServerApp:
    """A ServerApp for a recipe.

    Args:
        recipe: the TOML file that it is in.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        log = EventLog(sys.stdout)
        with told(log):
            settings = RunSettings.read(context.run_config, "run config")
            run = create_or_open(load(recipe), Path(settings.out))
            log.write_to(run.folder)
            log.tell("server", title=run.recipe.title, rounds=run.recipe.federation.rounds, **this_process())
            summary = train(run, Timely(grid), settings, EventObserver(log.tell), log.tell)
            log.tell("finished", **summary)

    return app


@contextmanager
def told(log: EventLog) -> Iterator[None]:
    """Have the log say how a server ended that did not finish, whatever the reason."""
    try:
        yield
    except IgcError as error:
        log.tell("failed", error=str(error))
        raise
    except Exception as error:
        log.tell("failed", error=f"{type(error).__name__}: {error}")
        raise
    except BaseException as error:  # Ctrl-C, or an exit that somebody asked for
        log.tell("stopped", reason=type(error).__name__)
        raise


def train(
    run: Run, grid: Carrier, settings: RunSettings, observer: Observer, tell: Tell, poll: float = 1.0
) -> dict[str, Any]:
    """Train, or go on with, a run over Flower; returns its summary.

    Args:
        run: the run.
        grid: Flower's.
        settings: of the deployment.
        observer: is told of rounds.
        tell: is told of nodes.
        poll: seconds between two looks for what has come.

    Raises:
        IgcError: a subclass says what went wrong; the newest checkpoint is whole.
    """
    return run.train(Heard(observer), _builder(run, grid, settings, tell, poll))


def create_or_open(recipe: Recipe, folder: Path) -> Run:
    """The run in a folder, or a new one.

    Raises:
        RunError: the folder holds a run of another recipe, or one that another process trains.
    """
    if not (folder / RECIPE).exists():
        return Run.create(recipe, folder)
    run = Run.open(folder)
    if run.recipe.essence != recipe.essence:
        raise RunError(f"{folder} holds a run of another recipe; choose another folder by --run-config 'out=\"...\"'")
    return run.change(recipe)  # rounds, learning rates and the like may change between two sessions


def _builder(run: Run, grid: Carrier, settings: RunSettings, tell: Tell, poll: float) -> Callable[[Recipe], Experiment]:
    def build(recipe: Recipe) -> Experiment:
        run.note_clients(settings.roster)
        experiment, everybody, dropout = server_side(recipe, settings)
        owners = Owners.read(settings.owners)
        roll = Roll(grid, everybody, tell, poll, owners=owners, claims=Claims(run.folder / CLAIMS))
        quorum = min(settings.quorum or len(everybody), len(everybody))
        there = roll.wait_for(everybody, quorum, settings.patience)
        if there < quorum:
            raise TrainingError(
                f"{there} of {len(everybody)} clients came within {settings.patience:g} s, and quorum is {quorum};"
                " start more SuperNodes, or lower quorum by --run-config 'quorum=...'"
            )
        engine = FlowerEngine(
            grid,
            roll,
            _session(run.folder),
            dropout,
            deadline=settings.deadline,
            patience=settings.patience,
            tell=tell,
            poll=poll,
        )
        return dataclasses.replace(experiment, engine=engine)

    return build


def _session(folder: Path) -> str:
    """The name of a run's session: what clients remember under another one is not of this run."""
    path = folder / SESSION
    if not path.exists():
        write_atomically(path, secrets.token_hex(8) + "\n", then=_AGAIN)
    return path.read_text().strip()
