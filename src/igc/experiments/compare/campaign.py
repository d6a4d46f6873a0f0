"""One entrant's part of a comparison: find its rounds and its learning rate, then run it under every seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from igc.errors import RunError
from igc.experiments import metrics
from igc.experiments.compare import RUNS
from igc.experiments.compare.entrant import Entrant
from igc.experiments.compare.execute import Executor
from igc.experiments.compare.folders import folder_of
from igc.experiments.compare.search import best_rung, next_rung, rung
from igc.experiments.format import format_bytes
from igc.experiments.metrics import METRICS
from igc.experiments.recipe import Recipe

COMPLETE: Final = "complete"
_PROBE_ROUNDS: Final = 3
_ATTEMPTS: Final = 5  # at the number of rounds that a budget of bytes allows
_WELL_SPENT: Final = 0.95
_NOTHING_FITS: Final = "not one round fits the budget"
_LOWEST: Final = -5  # rung of the ladder of rates, for a training that breaks down before it says what it costs


@dataclass(frozen=True)
class Terms:
    """What every entrant of a comparison gets alike.

    Attributes:
        rounds: T; with a budget of bytes, at most so many.
        budget: bytes up and down, all clients together, that a run may cost; None: as many as its rounds take.
        seeds: runs at the learning rate that was chosen, under seeds that count up from the recipe's.
        trials: learning rates that are tried; 1: no tuning.
        test: the split that is reported.
        validation: the split that chooses among trials, never reported; None: no tuning.

    Raises:
        RunError: one split would choose and be reported.
    """

    rounds: int
    budget: int | None
    seeds: int
    trials: int
    test: str
    validation: str | None

    def __post_init__(self) -> None:
        if self.validation == self.test:
            raise RunError(
                f"split '{self.test}' would choose the learning rates and be reported, too: name another with"
                " --validation, let evaluation.splits of the recipe begin with another, or do not tune (--no-tune)"
            )


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
    cost: int = 0  # of one round, where the budget pays for none

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
            return self._line(f"{_NOTHING_FITS}: it costs {format_bytes(self.cost)}" if self.cost else _NOTHING_FITS)
        self.rate = self._tuned()
        return self._line(self._reported())

    @property
    def _least(self) -> int:
        """Rounds that a run has at least."""
        return 1 + (self.entrant.recipe(self.base, self.entrant.first_rate(self.base), {}).method.burn_in or 0)

    def _rounds(self) -> int:
        """The rounds that the budget allows: estimated from a few, then corrected by what was measured."""
        cap, budget = self.terms.rounds, self.terms.budget
        if budget is None:
            return cap
        least = self._least
        guess, step = min(max(_PROBE_ROUNDS, least), cap), 0
        tried: set[int] = set()
        for _ in range(_ATTEMPTS):
            spent, whole, step = self._probe(guess, step)
            tried.add(guess)
            done, within = len(spent) - 1, _within(spent, budget)
            if within == done > 0:  # all that was run fits: is there room for more?
                more = int(done * budget / spent[-1])
                if whole:
                    within = guess if spent[-1] >= _WELL_SPENT * budget else min(cap, max(guess, more))
                else:
                    within = min(cap, more)
            elif done == 0:
                return guess  # it never said what a round costs, and will not
            if within < least:
                self.cost = spent[1]
                return 0
            if within in tried:
                return within
            guess = within
        return guess

    def _probe(self, rounds: int, step: int) -> tuple[list[int], bool, int]:
        """Bytes after each round of a run, whether it came to its end, and its rung of the ladder of rates.

        Where training breaks down, a smaller rate is asked: what it costs to train says little then.
        """
        first = self.entrant.first_rate(self.base)
        while True:
            folder, summary = self._one(rung(first, step), 0, rounds)
            if summary is not None or step == _LOWEST:
                return _spent(folder), summary is not None, step
            step -= 1

    def _reported(self) -> str:
        """Run every seed at the rate that was chosen; the status.

        What a round costs may depend on the rate and on the seed, as where the server sends what has changed. Where a run
        costs more than the budget, all seeds are run again, for as many rounds as it pays.
        """
        status, within = self._every_seed()
        for _ in range(_ATTEMPTS - 1):
            if within == self.rounds:
                break
            if within < self._least:
                self.runs, self.rounds = [], 0
                return _NOTHING_FITS
            self.rounds = within
            status, within = self._every_seed()
        return status

    def _every_seed(self) -> tuple[str, int]:
        """Run seeds until one costs too much; the status, and the rounds that fit the budget."""
        self.runs = []
        status, budget = COMPLETE, self.terms.budget
        for seed in range(self.terms.seeds):
            folder, summary = self._one(self.rate, seed)
            if summary is None:
                return f"training broke down under seed {seed}", self.rounds
            self.runs.append((folder, summary))
            total = summary["bytes_up"] + summary["bytes_down"]
            if budget is not None and total > budget:
                return f"{total - budget:,} bytes over the budget under seed {seed}", _within(_spent(folder), budget)
            if self._metric(summary) is None:
                status = f"{summary['metric_name']} is not finite under seed {seed}"
        return status, self.rounds

    def _metric(self, summary: Mapping[str, Any]) -> float | None:
        found: float | None = summary["final_metrics"][self.terms.test][summary["metric_name"]]
        return found

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
        folder = folder_of(self.root / RUNS, self.entrant.name, name, recipe)
        label = f"{self.entrant.name}, rate {rate:g}, seed {recipe.seed}"
        self.say(label, 0, rounds)
        summary = self.executor.run(folder, recipe, lambda done: self.say(label, done, rounds))
        return folder, summary

    def _line(self, status: str) -> dict[str, Any]:
        summaries = [summary for _, summary in self.runs]
        values = [self._metric(summary) for summary in summaries]
        finite = [value for value in values if value is not None] if status == COMPLETE else []
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
            "metric": fmean(finite) if finite else None,
            "metric_std": (stdev(finite) if len(finite) > 1 else 0.0) if finite else None,
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
            "fingerprint": last.get("fingerprint"),
            "device": " and ".join(sorted({s["device"] for s in summaries if "device" in s})) or None,
            "versions": last.get("versions"),
        }


def _spent(folder: Path) -> list[int]:
    """Bytes spent after 0, 1, 2, ... rounds."""
    return [record["total_up"] + record["total_down"] for record in metrics.read(folder / METRICS)]


def _within(spent: Sequence[int], budget: int) -> int:
    """The rounds that a budget pays for, of those that were run."""
    return max((rounds for rounds, total in enumerate(spent) if total <= budget), default=0)
