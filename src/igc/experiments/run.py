"""A run: a recipe with a folder. Train, resume, evaluate, export.

RUN/recipe.toml        the recipe as run, every default spelled out
RUN/metrics.jsonl      one JSON object a round
RUN/ledger.jsonl       bytes down and up of each client in each round
RUN/checkpoints/       the newest few
RUN/summary.json       written at the end
RUN/privacy.jsonl      with differential privacy: the clients of each round that began
RUN/clients.json       names of the clients, where they bring data of their own (a federation over Flower)
RUN/plots/             metric against rounds and against bytes, PNG and SVG
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from igc.errors import RunError, TrainingError
from igc.experiments import checkpoint, metrics
from igc.experiments.assemble import Experiment, assemble, server_data
from igc.experiments.atomic import AGAIN, cannot_write, write_atomically
from igc.experiments.contents import CHECKPOINTS, keep_for, must_be_a_run
from igc.experiments.interrupts import interrupts_wait
from igc.experiments.memory import enough_memory
from igc.experiments.metrics import LEDGER, METRICS, JsonLines
from igc.experiments.plots import write_plots
from igc.experiments.progress import Observer, RoundRecord, RunInfo, evaluation
from igc.experiments.protect import Journal, build_spending
from igc.experiments.recipe import ESSENTIAL, RECIPE, Recipe, load
from igc.experiments.summary import summarise
from igc.federation import RoundResult
from igc.federation.protection import Spending
from igc.records import from_tree, record, to_tree

SUMMARY = "summary.json"
PLOTS = "plots"
CLIENTS = "clients.json"
LOCK = ".lock"


class Run:
    """One run's folder.

    Use `create` for a new one and `open` for one that is there.
    """

    def __init__(self, folder: Path, recipe: Recipe, *, is_new: bool = False, made_folder: bool = False) -> None:
        self.folder = folder
        self.recipe = recipe
        self._is_new = is_new
        self._made_folder = made_folder

    @classmethod
    def create(cls, recipe: Recipe, folder: Path) -> Run:
        """Make the folder of a new run.

        Raises:
            RunError: it holds a run already, or a comparison or a tuning, or cannot be written.
        """
        try:
            keep_for("run", folder)
            if (folder / RECIPE).exists():
                raise RunError(
                    f"{folder} already holds a run; go on with it by `igc resume {quote(str(folder))}`, or choose another"
                    " folder with --out"
                )
            if folder.is_file():
                raise RunError(f"{folder} is a file; choose a folder with --out")
            made_folder = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror}; choose another with --out") from error
        recipe = recipe.anchored()  # resume, eval and export may be called from elsewhere
        write_atomically(folder / RECIPE, recipe.to_toml().encode(), then=AGAIN)
        return cls(folder, recipe, is_new=True, made_folder=made_folder)

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises:
            RunError: there is none, or many, as in a comparison's folder.
            RecipeError: its recipe was damaged.
        """
        must_be_a_run(folder)
        if not (folder / RECIPE).is_file():
            raise RunError(f"{folder} holds no run (no {RECIPE} in it); `igc train` makes one")
        return cls(folder, load(folder / RECIPE))

    def change(self, recipe: Recipe) -> Run:
        """The run, to go on by another recipe.

        Raises:
            RunError: another process is training here, by the old one; or it cannot be written.
        """
        with self._locked():
            write_atomically(self.folder / RECIPE, recipe.anchored().to_toml(), then=AGAIN)
        return Run.open(self.folder)

    @property
    def own_clients(self) -> tuple[str, ...]:
        """Names of the clients, where these bring data of their own; empty: they are those of the recipe's data.

        Raises:
            RunError: ``clients.json`` is damaged.
        """
        path = self.folder / CLIENTS
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {path}: {error}; put it back: a JSON list of the clients' names") from error
        return tuple(map(str, names))

    def note_clients(self, names: tuple[str, ...]) -> None:
        """Keep the names of clients that bring data of their own; none: the recipe's data have them.

        Raises:
            RunError: there are none now, and the run began with some; or the disk cannot be written.
        """
        if names:
            write_atomically(self.folder / CLIENTS, json.dumps(names), then=AGAIN)
        elif known := self.own_clients:
            raise RunError(
                f"{self.folder} was begun by {len(known)} clients with data of their own ({known[0]}, ...); go on with it"
                " as it was begun, by `flwr run` with their names in clients"
            )

    @property
    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds.

        Raises:
            RunError: the run is not finished, or the file is damaged, which resuming mends.
        """
        found = self.read_summary()
        if found is None:
            raise RunError(f"{self.folder} is not finished; go on with it by `igc resume {quote(str(self.folder))}`")
        return found

    @property
    def is_finished(self) -> bool:
        """Whether all rounds of its recipe are done and summed up."""
        found = self.read_summary()
        return found is not None and found["rounds"] >= self.recipe.federation.rounds

    def read_summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` holds; None where it is missing or damaged: it is written anew from what it sums up."""
        try:
            found = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise RunError(f"cannot read {self.folder / SUMMARY}: {error.strerror}; mend that, or delete it") from error
        return found if isinstance(found, dict) and isinstance(found.get("rounds"), int) else None

    def train(self, observer: Observer, build: Callable[[Recipe], Experiment] | None = None) -> dict[str, Any]:
        """Train from the newest checkpoint, or from the start if there is none, to the end of the recipe.

        Args:
            observer: is told what happens.
            build: makes the parts of the recipe, with another engine than this process; None: `assemble`.

        Returns:
            What ``summary.json`` then holds.

        Raises:
            IgcError: a subclass says what went wrong; the newest checkpoint is whole. A new run that cannot even begin
                (d > D, a client without examples, too little memory) is taken back, so that nothing stands in the way of
                the next try.
        """
        with self._locked(), enough_memory():
            try:
                if build is None:
                    self.note_clients(())
                experiment = (build or assemble)(self.recipe)
                spending = build_spending(self.recipe, experiment.clients)
            except Exception:  # a fault of ours, too; Ctrl-C leaves what it says to go on with
                self.take_back()
                raise
            self._is_new = False
            trainer = _Trainer(self, experiment, observer, spending)
            try:
                trainer.run()
            finally:
                experiment.engine.close()
                observer.finish()
            return self._finish(experiment, spending)

    def restore(self, warn: Callable[[str], None]) -> Experiment:
        """The run's parts at its newest whole checkpoint.

        Raises:
            CheckpointError: there is none.
        """
        own = self.own_clients
        with enough_memory():
            experiment = assemble(self.recipe, server_data(self.recipe, own) if own else None)
        _restore(experiment, self.folder / CHECKPOINTS, warn)
        return experiment

    def take_back(self) -> None:
        """Undo `create`, if nothing has been done since, by whatever process."""
        if self._is_new and not (self.folder / METRICS).exists():
            with suppress(OSError):
                (self.folder / RECIPE).unlink()
                (self.folder / CLIENTS).unlink(missing_ok=True)
                (self.folder / LOCK).unlink()
                if self._made_folder:
                    self.folder.rmdir()  # not if it holds anything else

    def _finish(self, experiment: Experiment, spending: Spending | None) -> dict[str, Any]:
        records = metrics.read(self.folder / METRICS)
        split, name = self.recipe.evaluation.splits[0], experiment.task.metric_name
        if split not in records[-1].get("metrics", {}):  # when it was run, its last round was not to be the last
            scores = experiment.evaluate()
            records[-1] |= evaluation(scores, name, scores[split][name])
            metrics.write(self.folder / METRICS, records)
        summary = summarise(experiment, records, spending)
        write_plots(self.folder / PLOTS, records, summary)
        write_atomically(self.folder / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
        return summary

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except OSError as error:
            if not isinstance(error, Timeout):
                raise RunError(cannot_write(self.folder / LOCK, error)) from error
            raise RunError(f"another process is training in {self.folder}; wait for it, or stop it first") from None
        try:
            yield
        finally:
            lock.release()


class _Trainer:
    """The loop over rounds, with its logs and checkpoints."""

    def __init__(self, run: Run, experiment: Experiment, observer: Observer, spending: Spending | None) -> None:
        self.recipe = run.recipe
        self.folder = run.folder
        self.experiment = experiment
        self.observer = observer
        self.spending = spending
        self.complete: _Moment | None = None  # the last round that is also in the logs
        self.saved = -1  # the round of the newest checkpoint

    def run(self) -> None:
        start = self._resume()
        self.observer.start(self._info(start))
        rounds = self.recipe.federation.rounds
        journal = None if self.spending is None else Journal(self.folder, self.spending)
        with JsonLines(self.folder / METRICS) as lines, JsonLines(self.folder / LEDGER) as ledger:
            try:
                if start == 0 and not metrics.read(self.folder / METRICS):
                    self._round_zero(lines)
                for number in range(start, rounds):
                    if self._spent_up(number):
                        break
                    began = time.perf_counter()
                    if journal is not None:
                        journal.begin(number, self.experiment.server.cohort(number))
                    result = self.experiment.server.run_round(self.experiment.engine)
                    done = number + 1
                    last = done == rounds or self._over_budget(done)
                    evaluated = done % self.recipe.evaluation.every == 0 or last
                    scores = self.experiment.evaluate() if evaluated else {}
                    with interrupts_wait():
                        self._book(result, self._record(result, scores, began), lines, ledger)
                        if done % self.recipe.checkpoint.every == 0 or last:
                            self._save(lines, ledger)
            except (KeyboardInterrupt, TrainingError):  # rounds done are not lost, whatever ends the run
                with interrupts_wait():
                    self._save(lines, ledger)
                raise
            finally:
                if journal is not None:
                    journal.close()

    def _book(self, result: RoundResult, line: RoundRecord, lines: JsonLines, ledger: JsonLines) -> None:
        """Put a round into the logs, and hold what a checkpoint of it would."""
        for client, reason in result.rejected.items():
            self.observer.warn(f"round {line.round}: left out client '{client}': {reason}")
        if result.skipped:
            self.observer.warn(f"round {line.round}: skipped: {result.skipped}")
        _is_there(self.folder)
        lines.append(line.to_json())
        ledger.append({**result.traffic, "round": line.round})
        self.complete = _Moment.of(line.round, self.experiment)
        self.observer.round(line)

    def _over_budget(self, round: int) -> bool:
        """Whether a round (from 0) would spend more than the run may."""
        cohort = self.experiment.server.cohort
        return self.spending is not None and not self.spending.allows(round, cohort(round))

    def _spent_up(self, round: int) -> bool:
        """`_over_budget`, told to whoever watches."""
        spending = self.spending
        if spending is None or not self._over_budget(round):
            return False
        after = spending.after(round, self.experiment.server.cohort(round))
        self.observer.warn(
            f"privacy budget: stopped after round {round} of {self.recipe.federation.rounds}; epsilon is"
            f" {spending.epsilon:.4g}, and another round would make it {after:.4g}, above privacy.epsilon ="
            f" {spending.budget:g} (delta {spending.accountant.delta:g})"
        )
        return True

    def _round_zero(self, lines: JsonLines) -> None:
        began = time.perf_counter()
        scores = self.experiment.evaluate()
        line = self._line(0, None, 0, 0, 0, scores, began)
        lines.append(line.to_json())
        self.observer.round(line)

    def _record(self, result: RoundResult, scores: dict[str, dict[str, float]], began: float) -> RoundRecord:
        line = self._line(
            result.round + 1, result.loss, result.bytes_up, result.bytes_down, result.asked, scores, began
        )
        return dataclasses.replace(
            line,
            dropped=len(result.dropped),
            rejected=len(result.rejected),
            clipped=len(result.clipped),
            skipped=bool(result.skipped),
            epsilon=None if self.spending is None else self.spending.epsilon,
        )

    def _line(
        self,
        number: int,
        loss: float | None,
        up: int,
        down: int,
        asked: int,
        scores: dict[str, dict[str, float]],
        began: float,
    ) -> RoundRecord:
        ledger = self.experiment.server.ledger
        name = self.experiment.task.metric_name
        return RoundRecord(
            round=number,
            rounds=self.recipe.federation.rounds,
            loss=loss,
            bytes_up=up,
            bytes_down=down,
            total_up=ledger.up,
            total_down=ledger.down,
            total_messages=sum(a.uploads + a.downloads for a in ledger.accounts.values()),
            seconds=time.perf_counter() - began,
            clients=asked,
            metric_name=name,
            metric=scores[self.recipe.evaluation.splits[0]][name] if scores else None,
            metrics=scores,
        )

    def _resume(self) -> int:
        folder = self.folder / CHECKPOINTS
        checkpoint.tidy(folder)
        start = 0
        if checkpoint.exists(folder):
            start = _restore(self.experiment, folder, self.observer.warn, to_train=True)
            self.saved = start
        for log in (METRICS, LEDGER):
            metrics.truncate_after(self.folder / log, start)
            # Logs are synced before a checkpoint is written: one that knows less was lost or edited.
            if start and [record["round"] for record in metrics.read(self.folder / log)][-1:] != [start]:
                raise RunError(
                    f"{self.folder / log} does not go up to round {start}, where the newest checkpoint is; put it back, or"
                    " train in a new folder"
                )
        return start

    def _save(self, *logs: JsonLines) -> None:
        """Checkpoint the last complete round; the logs reach the disk first, so that they never know less."""
        moment = self.complete
        if moment is None or moment.round == self.saved:
            return
        _is_there(self.folder)
        for log in logs:
            log.sync()
        tensors: dict[str, Tensor] = {}
        tree = to_tree(moment, tensors)
        checkpoint.save(self.folder / CHECKPOINTS, moment.round, tree, tensors, self.recipe.checkpoint.keep)
        self.saved = moment.round

    def _info(self, start: int) -> RunInfo:
        e = self.experiment
        return RunInfo(
            title=self.recipe.title,
            method=self.recipe.method.name,
            task=e.task.name,
            metric_name=e.task.metric_name,
            D=e.space.D,
            d=e.method.projection.d,
            clients=e.clients,
            rounds=self.recipe.federation.rounds,
            model_bytes=e.model_bytes,
            start_round=start,
            device=e.device_name,
            folder=self.folder,
        )


def _is_there(folder: Path) -> None:
    """Refuse to write into a folder that was taken away: it would be made anew, without its recipe.

    Raises:
        RunError: it was.
    """
    try:
        (folder / RECIPE).stat()
    except OSError as error:
        raise RunError(
            f"{folder / RECIPE} cannot be seen any more ({error.strerror}): was the folder taken away while it trained? Put"
            f" it back and `igc resume` it, or train again"
        ) from error


@record
class _Moment:
    """All that a run must know to go on after a round. Its parts are never changed in place, so that holding one is free.

    Attributes:
        round: rounds done.
        agreement: fingerprint, projection and method, in hex; what evaluation and export depend on.
        recipe: digest of all else that training depends on; guards against a recipe edited since.
        state: of the server.
        memories: client -> what it remembers.
        accounts: client -> its traffic.
    """

    round: int
    agreement: str
    recipe: str
    state: Any
    memories: dict[str, Any]
    accounts: dict[str, Any]

    @classmethod
    def of(cls, done: int, e: Experiment) -> _Moment:
        memories, accounts = dict(e.engine.memories), dict(e.server.ledger.accounts)
        return cls(done, _agreement(e), e.recipe.essence, e.server.state, memories, accounts)


def _restore(experiment: Experiment, folder: Path, warn: Callable[[str], None], *, to_train: bool = False) -> int:
    done, tree, tensors = checkpoint.load_latest(folder, warn)
    moment = from_tree(tree, tensors)
    same = isinstance(moment, _Moment) and moment.agreement == _agreement(experiment)
    if not same or (to_train and moment.recipe != experiment.recipe.essence):
        raise RunError(
            f"the checkpoint in {folder} was made by another recipe than {folder.parent / RECIPE} now is, or with other"
            f" clients: what differs is of {ESSENTIAL}; put that back, or train in a new folder"
        )
    experiment.server.state = moment.state
    experiment.server.round = done
    experiment.server.ledger.accounts = dict(moment.accounts)
    experiment.engine.memories = dict(moment.memories)
    return done


def _agreement(experiment: Experiment) -> str:
    method = experiment.method
    return ":".join(part.hex() for part in (experiment.space.fingerprint, method.projection.digest, method.digest))
