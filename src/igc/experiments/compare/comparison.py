"""A comparison: a folder with a recipe, the runs of every entrant, and a table of how they did.

COMPARISON/recipe.toml        what all have in common
COMPARISON/runs/METHOD/RUN/   every run, a normal run folder
COMPARISON/comparison.json    a line for each method and budget
COMPARISON/comparison.csv     the same, for a spreadsheet
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from igc.errors import IgcError, RunError
from igc.experiments.atomic import AGAIN, write_atomically
from igc.experiments.compare import JSON
from igc.experiments.compare.campaign import Campaign, Terms
from igc.experiments.compare.entrant import Entrant
from igc.experiments.compare.execute import Executor, OutOfTimeError
from igc.experiments.contents import keep_for
from igc.experiments.recipe import RECIPE, Recipe, load
from igc.experiments.run import LOCK

CSV: Final = "comparison.csv"
_COLUMNS: Final = (
    "title", "task", "method", "status", "budget", "budget_bytes", "metric_name", "metric", "metric_std", "bytes_up",
    "bytes_down", "factor", "rounds", "seeds", "learning_rate", "seconds",
)  # fmt: skip

Line = dict[str, Any]
Say = Callable[[str, str, int, int], None]


def compare(
    base: Recipe, chosen: Sequence[Entrant], terms: Terms, folder: Path, executor: Executor, jobs: int, say: Say
) -> tuple[list[Line], list[str], dict[str, IgcError]]:
    """Run all entrants, as far as time allows; what the folder holds already is not run again.

    Args:
        base: what all have in common.
        chosen: who takes part.
        terms: what everybody gets.
        folder: the comparison's; one that holds another recipe is refused.
        executor: trains runs.
        jobs: entrants that run side by side, each in its own process.
        say: told what goes on: an entrant, a line, rounds done and in all.

    Returns:
        All lines of ``comparison.json``, those of earlier calls included; the names of entrants that are not done; and of
        each entrant that failed for good why, which holds up nobody else.

    Raises:
        RunError: the folder is another comparison's, or a run's or a tuning's.
        RecipeError: an entrant's settings do not fit the recipe.
    """
    for entrant in chosen:  # faults come out before hours of training, and before a folder is made
        entrant.recipe(base, entrant.first_rate(base), {"federation.rounds": terms.rounds})
    _open(folder, base)
    lines = read(folder)
    writing = threading.Lock()

    def campaign(entrant: Entrant) -> Line:
        line = Campaign(folder, base, entrant, terms, executor, lambda *news: say(entrant.name, *news)).run()
        with writing, FileLock(folder / LOCK):  # threads of this call, and another call in the same folder
            lines[:] = [*(old for old in read(folder) if _key(old) != _key(line)), line]
            write(folder, lines)
        return line

    unfinished: list[str] = []
    failures: dict[str, IgcError] = {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(campaign, entrant): entrant for entrant in chosen}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                except OutOfTimeError:
                    unfinished.append(futures[future].name)
                except IgcError as error:  # the others still have something to say
                    failures[futures[future].name] = error
        except BaseException:
            executor.stop.set()
            raise
    return lines, unfinished, failures


def read(folder: Path) -> list[Line]:
    """The lines of a comparison; none where there is none yet.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / JSON
    if not path.exists():
        return []
    try:
        lines = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(lines, list) and all(isinstance(line, dict) for line in lines):
            return lines
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; delete it and compare again, runs are kept") from error
    raise RunError(f"{path} is no list of results; delete it and compare again, runs are kept")


def write(folder: Path, lines: Sequence[Line]) -> None:
    """Write ``comparison.json`` and ``comparison.csv``."""
    write_atomically(folder / JSON, json.dumps(list(lines), indent=2, allow_nan=False) + "\n", then=AGAIN)
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(folder / CSV, table.getvalue(), then=AGAIN)


def _key(line: Line) -> tuple[Any, ...]:
    return line["method"], line["budget"], line["budget_bytes"] or line["rounds"]


def _open(folder: Path, base: Recipe) -> None:
    path = folder / RECIPE
    keep_for("comparison", folder)
    text = base.anchored().to_toml()
    if not path.exists():
        write_atomically(path, text, then=AGAIN)
    elif load(path) != base.anchored():
        raise RunError(f"{folder} holds a comparison of another recipe ({path}); choose another folder with --out")
