"""A tuning: trials of recipes that cost no more than a budget of bytes, most of them ended early.

TUNING/recipe.toml     what is not tuned
TUNING/tune.db         Optuna's study: what was tried, how far it came
TUNING/runs/RUN/       every trial, a normal run folder
TUNING/tune.json       every trial and the best
TUNING/best.toml       the best recipe; line 1 is the command that runs it

Trials report their validation metric at ninths of their rounds, that is of the bytes that they may spend. Those that are
not in the best third of the trials that came so far are stopped after one ninth, and again after three: successive halving
(Jamieson and Talwalkar, AISTATS 2016; asynchronous, Li et al., MLSys 2020), as Optuna has it. What is tried next comes from
its tree-structured Parzen estimator.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Final, NamedTuple

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from igc.errors import IgcError, RunError
from igc.experiments import metrics
from igc.experiments.assemble import assemble, load_data
from igc.experiments.atomic import AGAIN, write_atomically
from igc.experiments.compare import RUNS
from igc.experiments.compare.execute import Executor, OutOfTimeError
from igc.experiments.contents import keep_for
from igc.experiments.memory import enough_memory
from igc.experiments.metrics import METRICS
from igc.experiments.recipe import RECIPE, Recipe, load
from igc.experiments.run import LOCK, Run
from igc.experiments.tune import JSON, STUDY
from igc.experiments.tune.budget import Budget, Rehearsal
from igc.experiments.tune.describe import describe
from igc.experiments.tune.draws import Cheapest, Told, has
from igc.experiments.tune.space import METHODS, TUNABLE, VERSION, Choice, SearchSpace
from igc.projection.philox import child_seed

BEST: Final = "best.toml"
NINTHS: Final = 9
THIRD: Final = 3
LEAST_ROUNDS: Final = 5
_NAME: Final = "tune"  # of the study in the database
_RANDOM_TRIALS: Final = 8  # before the estimator has anything to go by
_TOO_SHORT: Final = f"pays for fewer than {LEAST_ROUNDS} rounds"
_FAULTY: Final = "makes no recipe"
_AGAIN: Final = "tried before"
_FAILURES: Final = 3  # in a row: it is not the combinations
_IDLE_DRAWS: Final = 100  # so many in a row that are no trials: there is nothing to try, or nothing else

Say = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Terms:
    """What was asked for.

    Attributes:
        budget: that no accepted run exceeds.
        trials: to be made in all, those of earlier calls included.
        most_rounds: of a run.
        validation: the split that chooses.
        pinned: keys of the recipe that are not tuned.
    """

    budget: Budget
    trials: int
    most_rounds: int
    validation: str
    pinned: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """What a tuning cannot change half-way; trials it can."""
        return {
            "bytes": self.budget.bytes,
            "scope": self.budget.scope,
            "most_rounds": self.most_rounds,
            "validation": self.validation,
            "pinned": sorted(self.pinned),
            "search_space_version": VERSION,
        }


class _CutShort(NamedTuple):
    """A trial that an earlier call began: what was drawn, what is due to be drawn and what was reported are kept."""

    number: int
    id: int


class Tuner:
    """Runs trials, until there are enough or time is up; what the folder holds already is not run again.

    Args:
        base: the recipe.
        terms: what was asked for.
        folder: the tuning's; one that holds another tuning, a run or a comparison is refused.
        executor: trains runs.
        say: told what goes on: a trial, a line, rounds done and in all.

    Raises:
        RunError: the folder is another's, or the recipe cannot be tuned.
        IgcError: the recipe does not fit.
    """

    def __init__(self, base: Recipe, terms: Terms, folder: Path, executor: Executor, say: Say) -> None:
        self.base = base.anchored()
        self.terms = terms
        self.folder = folder
        self._executor = executor
        self._say = say
        self._asking = threading.Lock()
        self._cut_short: list[_CutShort] = []
        self._failures = 0  # in a row
        _check(self.base, terms)
        _hold_to_its_recipe(folder, self.base)
        data = load_data(self.base)
        with enough_memory():
            whole = assemble(_with_split(self.base, terms.validation), data)
        self.metric_name = whole.task.metric_name
        self.higher_is_better = whole.task.higher_is_better
        self.D = whole.space.D
        self._rehearsal = Rehearsal(whole.space, tuple(data.clients))
        self._clients = len(data.clients)
        affordable = self._bytes_a_message(self._clients, LEAST_ROUNDS)
        self._space = SearchSpace.within(self.base, terms.pinned, self.D, affordable)

    def run(self, jobs: int = 1) -> bool:
        """Make the trials.

        Args:
            jobs: trials side by side.

        Returns:
            Whether all were made; False where time was up.

        Raises:
            RunError: several runs in a row failed, the budget pays for nothing, or another process tunes here.
        """
        self._check_that_it_pays()
        if not (self.folder / RECIPE).exists():  # not before: what cannot begin leaves nothing behind
            write_atomically(self.folder / RECIPE, self.base.to_toml(), then=AGAIN)
        with self._study() as study, ThreadPoolExecutor(jobs) as pool:
            self._write(study)  # it may be gone, or we were killed between a trial's end and its line
            try:
                done = [
                    future.result() for future in as_completed([pool.submit(self._work, study) for _ in range(jobs)])
                ]
            except BaseException:
                self._executor.stop.set()
                raise
        return all(done)

    def _work(self, study: optuna.Study) -> bool:
        while True:
            try:
                with self._asking:
                    trial = self._next(study)
                if trial is None:
                    return True
                reported = frozenset(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
                state, value, status = self._try(trial, reported)
            except OutOfTimeError:
                return False  # left as running: the next call takes it up again
            with self._asking:
                trial.set_user_attr("status", status)
                study.tell(trial, value, state)
                self._write(study)
                if self._failures >= _FAILURES:
                    raise RunError(f"{self._failures} trials in a row failed; of the last one, {status}")

    def _next(self, study: optuna.Study) -> Trial | None:
        """The next trial that is new and that the budget pays for; None: there are enough, or nothing else to try."""
        idle: Counter[str] = Counter()
        fault = ""
        for _ in range(_IDLE_DRAWS):
            if self._executor.late:
                raise OutOfTimeError
            trials = study.get_trials(deepcopy=False)
            if sum(map(_counts, trials)) - len(self._cut_short) >= self.terms.trials:
                return None
            number = self._cut_short[0].number if self._cut_short else len(trials)
            # Anew for every trial, so that what is drawn depends on what was found and not on when we were stopped.
            seed = child_seed(self.base.seed, number) % 2**32
            study.sampler = optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=seed)
            trial = Trial(study, self._cut_short.pop(0).id) if self._cut_short else study.ask()
            status = self._plan(trial, self._space.draw(trial))
            if status is not None:
                trial.set_user_attr("status", status)
                study.tell(trial, state=TrialState.PRUNED)
                fault = trial.user_attrs.get("fault", fault)
            elif (twin := _twin(trial, trials)) is not None:
                _repeat(study, trial, twin)
                status = _AGAIN
            else:
                return trial
            idle[status] += 1
        if idle[_AGAIN]:
            self._write(study)
            return None
        why, of = [], f"of {_IDLE_DRAWS} draws in a row"
        if short := idle[_TOO_SHORT]:
            why.append(
                f"{self.terms.budget.bytes:,} bytes {_TOO_SHORT} in {short} {of}; raise --bytes, or set a smaller"
                " method.dim or fewer clients a round with --set"
            )
        if faulty := idle[_FAULTY]:
            reason = " ".join(fault.split())
            why.append(
                f"{faulty} {of} make no recipe, the last because of {reason}; change that in the recipe or by --set"
            )
        raise RunError("; ".join(why))

    def _check_that_it_pays(self) -> None:
        """Refuse a budget that pays for nothing; faults of recipes are told where they are drawn."""
        terms = self.terms
        drawn = (self._space.draw(draws) for draws in (Told(self._space.own()), Cheapest()))
        try:
            own, cheapest = (choice.recipe(self.base, terms.most_rounds) for choice in drawn)
            paid = max(self._rehearsal.plan(recipe, terms.budget, self._least).rounds for recipe in (own, cheapest))
        except IgcError:
            return
        if paid < self._least:
            raise RunError(
                f"{terms.budget.bytes:,} bytes {_TOO_SHORT} of {describe(cheapest)}, the cheapest; raise --bytes, or set"
                " fewer federation.clients_per_round"
            )

    @property
    def _least(self) -> int:
        return min(LEAST_ROUNDS, self.terms.most_rounds)

    def _first(self) -> list[dict[str, Any]]:
        """What is tried first: the recipe, and, where its rounds are not all paid for, the largest d of which they are."""
        space, terms = self._space, self.terms
        own, smaller = space.own(), space.own_at(self._bytes_a_message(self._clients, terms.most_rounds))
        choice = space.draw(Told(own))
        try:
            recipe = choice.recipe(self.base, terms.most_rounds)
            rounds = self._rehearsal.plan(recipe, terms.budget, terms.most_rounds).rounds
        except IgcError:
            rounds = 0
        if rounds < self._least:
            return [smaller]
        return [own] if rounds == terms.most_rounds or space.draw(Told(smaller)) == choice else [own, smaller]

    def _plan(self, trial: Trial, choice: Choice) -> str | None:
        """Set the trial's recipe; or say why it has none."""
        try:
            found = self._recipe(choice)
        except IgcError as error:
            trial.set_user_attr("fault", str(error))
            return _FAULTY
        if found is None:
            return _TOO_SHORT
        recipe, planned = found
        trial.set_user_attr("recipe", recipe.to_dict())
        trial.set_user_attr("planned", planned)
        return None

    def _recipe(self, choice: Choice) -> tuple[Recipe, int] | None:
        """A recipe of as many rounds as the budget pays for, and its bytes; None where those are too few."""
        rounds = self.terms.most_rounds
        while True:  # subspaces in turn share out the rounds: where those are fewer, they change sooner and cost more
            plan = self._rehearsal.plan(
                choice.recipe(self.base, rounds), self.terms.budget, rounds, lambda: self._executor.late
            )
            if plan.rounds < self._least:
                return None
            if plan.rounds == rounds or choice.changes is None:
                break
            rounds = plan.rounds
        rounds, planned = plan
        return choice.recipe(self.base, rounds, self._watching(rounds)), planned

    def _watching(self, rounds: int) -> dict[str, Any]:
        every = math.ceil(rounds / NINTHS)
        return {
            "evaluation.every": every,
            "evaluation.splits": [self.terms.validation],
            "checkpoint.every": every,
            "checkpoint.keep": 1,
        }

    def _try(self, trial: Trial, reported: frozenset[int]) -> tuple[TrialState, float | None, str]:
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        folder = self.folder / RUNS / _name(recipe)
        trial.set_user_attr("run", folder.relative_to(self.folder).as_posix())
        rounds = recipe.federation.rounds
        label = f"trial {trial.number}: {describe(recipe)}"
        watch = _Watch(trial, folder, rounds, self.terms.validation, self.metric_name, reported)
        job = threading.current_thread().name  # one bar a job, or a screen would be full of trials that are done
        self._say(job, label, 0, rounds)

        def news(done: int) -> None:
            self._say(job, label, done, rounds)
            watch()

        try:
            summary = self._executor.run(folder, recipe, news)
        except optuna.TrialPruned:
            return TrialState.PRUNED, None, f"stopped after {watch.ninths} of {NINTHS} ninths"
        except RunError as error:  # memory for so large a batch, say: others may have it
            self._failures += 1
            if not folder.exists():
                trial.set_user_attr("run", None)
            return TrialState.FAIL, None, f"failed: {error}"
        self._failures = 0
        trial.set_user_attr("spent", spent := self.terms.budget.measured(folder))
        if summary is None:
            return TrialState.PRUNED, None, "training broke down"
        if spent > self.terms.budget.bytes:
            return TrialState.FAIL, None, "cost more than the budget"
        value = summary["final_metrics"][self.terms.validation][self.metric_name]
        if value is None:
            return TrialState.PRUNED, None, "training broke down"
        watch(to_prune=False)
        return TrialState.COMPLETE, value, "complete"

    def best(self) -> dict[str, Any] | None:
        """The best trial's line of ``tune.json``; None where no trial was accepted yet."""
        found: dict[str, Any] | None = read(self.folder)["best"]
        return found

    def test(self) -> dict[str, Any] | None:
        """The best trial's metrics on the recipe's own splits; they chose nothing. Into ``tune.json``, too."""
        content = read(self.folder)
        if content["best"] is None:
            return None
        folder = self.folder / content["best"]["run"]
        evaluation = self.base.evaluation
        recipe = load(folder / RECIPE).model_copy(update={"evaluation": evaluation})
        scores = Run(folder, recipe).restore(lambda _: None).evaluate()
        content["best"]["metrics"] = scores
        write_atomically(self.folder / JSON, json.dumps(content, indent=2) + "\n", then=AGAIN)
        return scores

    def _write(self, study: optuna.Study) -> None:
        lines = [_line(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        accepted = [line for line in lines if line["status"] == "complete"]
        best = (max if self.higher_is_better else min)(accepted, key=lambda line: line["metric"], default=None)
        content = {
            "title": self.base.title,
            "D": self.D,
            "metric_name": self.metric_name,
            "higher_is_better": self.higher_is_better,
            **self.terms.to_json(),
            "best": best,
            "trials": lines,
        }
        if best is not None:
            path = self.folder / BEST
            recipe = load(self.folder / best["run"] / RECIPE)
            whole = recipe.model_copy(update={"evaluation": self.base.evaluation, "checkpoint": self.base.checkpoint})
            write_atomically(path, f"# igc train {quote(str(path))}\n\n{whole.to_toml()}", then=AGAIN)
        write_atomically(self.folder / JSON, json.dumps(content, indent=2) + "\n", then=AGAIN)

    def _bytes_a_message(self, clients: int, rounds: int) -> float:
        """What a download and an upload may cost together, if the budget is to pay for so many rounds."""
        budget, asked = self.terms.budget, self.base.federation.clients_per_round * rounds
        return budget.bytes / (asked if budget.scope == "total" else math.ceil(asked / clients))

    @contextmanager
    def _study(self) -> Iterator[optuna.Study]:
        """The study in the folder; trials that were cut short are due again."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            held = FileLock(self.folder / LOCK).acquire(timeout=0)
        except Timeout:
            raise RunError(f"another process tunes in {self.folder}; wait for it, or stop it first") from None
        with held, self._storage() as storage:
            study = optuna.create_study(
                storage=storage,
                study_name=_NAME,
                direction="maximize" if self.higher_is_better else "minimize",
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=THIRD),
                load_if_exists=True,
            )
            self._hold_to_its_terms(study)
            trials = study.get_trials(deepcopy=False)
            if all(trial.state == TrialState.WAITING for trial in trials):  # we may have been killed between the two
                for parameters in self._first():
                    study.enqueue_trial(parameters, skip_if_exists=True)
            of = storage.get_study_id_from_name(_NAME)
            self._cut_short = [
                _CutShort(t.number, storage.get_trial_id_from_study_id_trial_number(of, t.number))
                for t in trials
                if t.state == TrialState.RUNNING
            ]
            yield study

    @contextmanager
    def _storage(self) -> Iterator[optuna.storages.RDBStorage]:
        """What optuna keeps trials in; whatever it cannot read or write while it is open ends in a line."""
        path = self.folder / STUDY
        storage: optuna.storages.RDBStorage | None = None
        try:
            storage = self._open(path)
            yield storage
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = getattr(error.__cause__ or error, "orig", None) or error.__cause__ or error
            raise RunError(
                f"{path}: {cause}; mend that and give the same command again, or tune in another folder with --out (what"
                f" trials found is in this file alone; what they trained stays in {self.folder / RUNS})"
            ) from error
        finally:
            if storage is not None:
                storage.remove_session()
                storage.engine.dispose()

    def _open(self, path: Path) -> optuna.storages.RDBStorage:
        try:
            return optuna.storages.RDBStorage(f"sqlite:///{path}")
        except RuntimeError as error:  # all that optuna says of a database of another version's
            raise RunError(
                f"{path} was written by another version of optuna than the one here, {optuna.__version__}: install that"
                " version to go on with it, or tune in another folder with --out"
            ) from error

    def _hold_to_its_terms(self, study: optuna.Study) -> None:
        asked = self.terms.to_json()
        if not study.user_attrs:
            study.set_user_attr("terms", asked)  # at once: whoever is killed here has written all or nothing
            return
        held = study.user_attrs.get("terms", {})
        for key, value in asked.items():
            if held.get(key) != value:
                raise RunError(
                    f"{self.folder} holds a tuning with {key} = {held.get(key)!r}, not {value!r}; choose another folder"
                    " with --out"
                )


@dataclass
class _Watch:
    """Reports a run's validation metric to its trial as it comes."""

    trial: Trial
    folder: Path
    rounds: int
    split: str
    metric: str
    reported: frozenset[int] = frozenset()  # in an earlier call
    ninths: int = 0

    def __call__(self, *, to_prune: bool = True) -> None:
        """Look at the run's log.

        Raises:
            optuna.TrialPruned: others did better at the same share of their rounds.
        """
        path = self.folder / METRICS
        for line in metrics.read(path) if path.exists() else ():
            ninths = NINTHS * line["round"] // self.rounds
            value = line.get("metrics", {}).get(self.split, {}).get(self.metric)
            if ninths <= self.ninths or value is None:
                continue
            self.ninths = ninths
            if ninths not in self.reported:
                self.trial.report(value, ninths)
            if to_prune and ninths < NINTHS and self.trial.should_prune():
                raise optuna.TrialPruned


def read(folder: Path) -> dict[str, Any]:
    """What ``tune.json`` holds; no trials where there is none yet.

    Raises:
        RunError: it is damaged.
    """
    path = folder / JSON
    if not path.exists():
        return {"best": None, "trials": []}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}; delete it and tune again, trials are kept") from error
    return found


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: made or being made."""
    if trial.state == TrialState.RUNNING:
        return True
    return trial.state.is_finished() and _made(trial.user_attrs["status"])


def _made(status: str) -> bool:
    return status not in (_TOO_SHORT, _FAULTY, _AGAIN)


def _twin(trial: Trial, others: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """An earlier trial of the very same recipe."""
    recipe = trial.user_attrs["recipe"]
    made = (other for other in others if other.number != trial.number and _counts(other))
    return next((other for other in made if other.user_attrs.get("recipe") == recipe), None)


def _repeat(study: optuna.Study, trial: Trial, twin: FrozenTrial) -> None:
    """Give a trial what its twin found, for the sampler to know, and not for the pruner: it is no trial of its own."""
    trial.set_user_attr("status", _AGAIN)
    trial.set_user_attr("same_as", twin.number)
    if twin.state == TrialState.RUNNING:
        study.tell(trial, state=TrialState.FAIL)
        return
    for ninths, value in twin.intermediate_values.items():
        trial.report(value, ninths)
    study.tell(trial, twin.value if twin.state == TrialState.COMPLETE else None, twin.state)


def _line(trial: FrozenTrial) -> dict[str, Any]:
    recipe = trial.user_attrs.get("recipe")
    return {
        "trial": trial.number,
        "status": trial.user_attrs["status"],
        "same_as": trial.user_attrs.get("same_as"),
        "metric": trial.value if trial.state == TrialState.COMPLETE else None,
        "reached": trial.intermediate_values.get(max(trial.intermediate_values, default=0)),
        "ninths": max(trial.intermediate_values, default=0),
        "rounds": recipe["federation"]["rounds"] if recipe else None,
        "bytes": trial.user_attrs.get("spent"),
        "planned_bytes": trial.user_attrs.get("planned"),
        "about": describe(Recipe.from_dict(recipe)) if recipe else trial.user_attrs.get("fault"),
        "run": trial.user_attrs.get("run"),
    }


def _name(recipe: Recipe) -> str:
    """A folder's name that the recipe determines, so that a trial that was cut short goes on where it was."""
    digest = hashlib.blake2b(recipe.to_toml().encode(), digest_size=5).hexdigest()
    return f"{recipe.method.name}-{recipe.method.dim}-{recipe.codec.up}-{digest}"


def _with_split(base: Recipe, split: str) -> Recipe:
    return base.model_copy(update={"evaluation": base.evaluation.model_copy(update={"splits": (split,)})})


def _check(base: Recipe, terms: Terms) -> None:
    name = base.method.name
    if terms.validation == base.evaluation.splits[0]:
        raise RunError(
            f"split '{terms.validation}' would choose among trials and be reported, too: name another with --validation, or"
            " let evaluation.splits of the recipe begin with another"
        )
    if has(terms.pinned, "method.name") and name not in TUNABLE:
        raise RunError(f"method.name = '{name}': tuning is of subspaces; pin one of {', '.join(METHODS)}, or none")
    if base.privacy is not None:
        raise RunError("privacy: every trial would spend some, which no account counts; tune without, on other data")
    if has(terms.pinned, "method.change") and base.method.change == "plateau":
        raise RunError(
            "method.change = 'plateau': what catching up will cost cannot be foreseen; pin 'rounds', or nothing"
        )


def _hold_to_its_recipe(folder: Path, base: Recipe) -> None:
    keep_for("tuning", folder)
    path = folder / RECIPE
    if path.exists() and load(path) != base:
        raise RunError(f"{folder} holds a tuning of another recipe ({path}); choose another folder with --out")


def trials_of(content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The lines of trials that were made, the best first, then those that came furthest."""
    sign = -1 if content.get("higher_is_better", True) else 1
    made = [line for line in content["trials"] if _made(line["status"])]

    def rank(line: Mapping[str, Any]) -> tuple[bool, int, float]:
        reached = line["metric"] if line["metric"] is not None else line["reached"]
        return line["metric"] is None, -line["ninths"], math.inf if reached is None else sign * reached

    return sorted(made, key=rank)
