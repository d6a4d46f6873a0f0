"""What a folder holds: a run, a comparison (a study of the dimension is one, too) or a tuning; each has one of its own."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Final, Literal

from igc.errors import RunError
from igc.experiments.compare import JSON as COMPARISON
from igc.experiments.compare import RUNS
from igc.experiments.metrics import METRICS
from igc.experiments.recipe import RECIPE
from igc.experiments.tune import JSON as TUNING
from igc.experiments.tune import STUDY

CHECKPOINTS: Final = "checkpoints"  # of a run

Kind = Literal["run", "comparison", "tuning"]


def kind_of(folder: Path) -> Kind | None:
    """What a folder holds; None where nothing has begun in it, as where there is a recipe alone.

    Raises:
        RunError: it cannot be read.
    """
    try:
        there = {name: (folder / name).exists() for name in (STUDY, TUNING, COMPARISON, METRICS, CHECKPOINTS, RECIPE)}
        compared = there[RECIPE] and any((folder / RUNS).glob(f"*/*/{RECIPE}"))
    except OSError as error:
        raise RunError(f"cannot read {folder}: {error.strerror}") from error
    if there[STUDY] or there[TUNING]:
        return "tuning"
    if there[COMPARISON]:
        return "comparison"
    if there[METRICS] or there[CHECKPOINTS]:
        return "run"
    # A recipe and runs/ are what `igc train recipe.toml` leaves where it is called; a comparison's runs are of methods.
    return "comparison" if compared else None


def keep_for(kind: Kind, folder: Path) -> None:
    """Refuse a folder that holds anything else than ``kind``.

    Raises:
        RunError: it does, or cannot be read.
    """
    try:
        found = kind_of(folder)
    except RunError as error:
        raise RunError(f"{error}; choose another with --out") from error
    if found is not None and found != kind:
        raise RunError(f"{folder} holds a {found}, and a {kind} has a folder of its own; choose another with --out")


def must_be_a_run(folder: Path) -> None:
    """Refuse a folder that holds many runs.

    Raises:
        RunError: it does, or cannot be read.
    """
    found = kind_of(folder)
    if found not in (None, "run"):
        raise RunError(
            f"{folder} holds a {found}; its runs are in {folder / RUNS}; `igc report {quote(str(folder))}` shows it"
        )
