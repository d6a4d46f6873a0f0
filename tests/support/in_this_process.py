"""Runs of comparisons without a process for each: as real, and quicker."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igc.errors import TrainingError
from igc.experiments.compare.execute import OUTCOME, Executor, OutOfTimeError
from igc.experiments.compare.one import Silent
from igc.experiments.recipe import Recipe
from igc.experiments.run import SUMMARY, Run


class InThisProcess(Executor):
    """Trains without a process for each run, and counts; `left` runs until time is up."""

    def __init__(self, left: float = math.inf) -> None:
        super().__init__(threads=1)
        object.__setattr__(self, "trained", [])
        object.__setattr__(self, "left", left)

    trained: list[Path]
    left: float

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        if (folder / SUMMARY).exists():
            return Run.open(folder).summary
        if (folder / OUTCOME).exists():
            return None
        if len(self.trained) >= self.left:
            raise OutOfTimeError
        self.trained.append(folder)
        try:
            return Run.create(recipe, folder).train(Silent())
        except TrainingError:
            (folder / OUTCOME).write_text("{}")
            return None
