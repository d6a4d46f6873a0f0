"""One entrant's part of a comparison: find its rounds and its learning rate, then run it under every seed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from igc.experiments import metrics
from igc.experiments.compare.entrant import Entrant
from igc.experiments.compare.execute import Executor
from igc.experiments.compare.search import best_rung, next_rung, rung
from igc.experiments.metrics import METRICS
from igc.experiments.recipe import Recipe

_PROBE_ROUNDS: Final = 3
_ATTEMPTS: Final = 5  # at the number of rounds that a budget of bytes allows
_WELL_SPENT: Final = 0.95


@dataclass(frozen=True)
class Terms:
    """What every entrant of a comparison gets alike.

    Attributes:
        rounds: T; with a budget of bytes, at most so many.
        budget: bytes up and down, all clients together, that a run may cost; None: as many as its rounds take.
        seeds: runs at the learning rate that was chosen, under seeds that count up from the recipe's.
        trials: learning rates that are tried; 1: no tuning.
        test: the split that is reported.
        validation: the split that chooses among trials, never reported.
    """

    rounds: int
    budget: int | None
    seeds: int
    trials: int
    test: str
    validation: str | None


@dataclass
class Campaign:
    """Runs one entrant; what is on disk already is not run again.

    Attributes:
        root: folder of the comparison; runs go under ``root / "runs"``.
        say: told what is going on: a line, rounds done and rounds in all.
    """

    root: Path
    base: Recipe
    entrant: Entrant
    terms: Terms
    executor: Executor
    say: Callable[[str, int, int], None]
    trials: list[dict[str, Any]] = field(default_factory=list)
    runs: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    rounds: int = 0
    rate: float = math.nan

    def run(self) -> dict[str, Any]:
        """Do all of it.

        Returns:
            The entrant's line of ``comparison.json``.

        Raises:
            OutOfTimeError: time is up before all was done.
            IgcError: a run cannot be made.
        """
        self.rounds = self._rounds()
        if self.rounds == 0:
            return self._line("not one round fits the budget")
        self.rate = self._tuned()
        for seed in range(self.terms.seeds):
            folder, summary = self._one(self.rate, seed)
            if summary is None:
                return self._line(f"training broke down under seed {seed}")
            self.runs.append((folder, summary))
        return self._line("complete")

    def _rounds(self) -> int:
        """The rounds that the budget allows: estimated from a few, then corrected by what was measured."""
        cap, budget = self.terms.rounds, self.terms.budget
        if budget is None:
            return cap
        first = self.entrant.first_rate(self.base)
        least = 1 + (self.entrant.recipe(self.base, first, {}).method.burn_in or 0)
        guess = min(max(_PROBE_ROUNDS, least), cap)
        tried: set[int] = set()
        for _ in range(_ATTEMPTS):
            folder, summary = self._one(first, 0, guess)
            spent = _spent(folder)
            tried.add(guess)
            within = max((r for r, total in enumerate(spent) if total <= budget), default=0)
            if within == len(spent) - 1 and within:  # all that was run fits: is there room for more?
                full = spent[-1] >= _WELL_SPENT * budget
                within = guess if full or summary is None else min(cap, max(guess, int(guess * budget / spent[-1])))
            if within < least:
                return 0
            if within in tried:
                return within
            guess = within
        return min(tried)

    def _tuned(self) -> float:
        """The rate that does best on the validation split, among the same number of trials for everybody."""
        first, higher = self.entrant.first_rate(self.base), True
        scores: dict[int, float] = {}
        while (step := next_rung(scores, self.terms.trials, higher_is_better=higher)) is not None:
            rate = rung(first, step)
            if self.terms.trials == 1:
                return rate
            _, summary = self._one(rate, 0)
            scores[step] = math.nan
            if summary is not None:
                higher = summary["higher_is_better"]
                found = summary["final_metrics"][self.terms.validation][summary["metric_name"]]
                scores[step] = math.nan if found is None else found
            self.trials.append({"learning_rate": rate, "metric": None if math.isnan(scores[step]) else scores[step]})
        return rung(first, best_rung(scores, higher_is_better=higher))

    def _one(self, rate: float, seed: int, rounds: int | None = None) -> tuple[Path, dict[str, Any] | None]:
        rounds = rounds or self.rounds
        splits = [self.terms.test, *([self.terms.validation] if self.terms.validation else [])]
        extra = {
            "seed": self.base.seed + seed,
            "federation.rounds": rounds,
            "evaluation.splits": splits,
        }
        recipe = self.entrant.recipe(self.base, rate, extra)
        name = f"rate-{rate:g}-seed-{recipe.seed}-rounds-{rounds}"
        folder = self.root / "runs" / re.sub(r"[^\w.=+-]", "-", self.entrant.name) / name
        label = f"{self.entrant.name}, rate {rate:g}, seed {recipe.seed}"
        self.say(label, 0, rounds)
        summary = self.executor.run(folder, recipe, lambda done: self.say(label, done, rounds))
        return folder, summary

    def _line(self, status: str) -> dict[str, Any]:
        summaries = [summary for _, summary in self.runs]
        values = [s["final_metrics"][self.terms.test][s["metric_name"]] for s in summaries]
        whole = bool(values) and None not in values
        last = summaries[-1] if summaries else {}

        def mean(key: str) -> float | None:
            return fmean(s[key] for s in summaries) if summaries else None

        return {
            "task": last.get("task", self.base.task.name),
            "method": self.entrant.name,
            "label": self.entrant.name,
            "about": self.entrant.about,
            "status": status,
            "settings": {**self.entrant.settings, self.entrant.tuned: None if math.isnan(self.rate) else self.rate},
            "learning_rate": None if math.isnan(self.rate) else self.rate,
            "trials": self.trials,
            "metric": fmean(values) if whole else None,
            "metric_std": (stdev(values) if len(values) > 1 else 0.0) if whole else None,
            "metrics": values,
            "metric_name": last.get("metric_name"),
            "higher_is_better": last.get("higher_is_better"),
            "split": self.terms.test,
            "budget": "rounds" if self.terms.budget is None else "bytes",
            "budget_bytes": self.terms.budget,
            "bytes_up": mean("bytes_up"),
            "bytes_down": mean("bytes_down"),
            "factor": mean("factor_vs_model"),
            "rounds": self.rounds,
            "seeds": len(summaries),
            "seconds": mean("seconds"),
            "runs": [folder.relative_to(self.root).as_posix() for folder, _ in self.runs],
            "title": self.base.title,
        }


def _spent(folder: Path) -> list[int]:
    """Bytes spent after 0, 1, 2, ... rounds."""
    return [record["total_up"] + record["total_down"] for record in metrics.read(folder / METRICS)]
