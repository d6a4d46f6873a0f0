"""Tunings of a tiny task: real training, real folders; runs in this process, but for the test that kills one."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import time
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from igc.errors import RecipeError, RunError, TrainingError
from igc.experiments.compare.execute import OUTCOME, OutOfTimeError
from igc.experiments.compare.one import Silent
from igc.experiments.progress import RoundRecord
from igc.experiments.recipe import Recipe, load
from igc.experiments.report.read import read as read_report
from igc.experiments.run import SUMMARY, Run
from igc.experiments.tune import JSON, STUDY
from igc.experiments.tune import tuner as module
from igc.experiments.tune.budget import Budget, Plan, Rehearsal
from igc.experiments.tune.draws import Told
from igc.experiments.tune.space import VERSION, Choice, changed
from igc.experiments.tune.tuner import BEST, Terms, Tuner, read, trials_of
from support.command import igc, start
from support.in_this_process import InThisProcess
from support.tiny import write_recipe

BUDGET = 30_000


class Watched(InThisProcess):
    """Trains in this process, and tells of every round."""

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        if (folder / SUMMARY).exists():
            return Run.open(folder).summary
        if (folder / OUTCOME).exists():
            return None
        if len(self.trained) >= self.left:
            raise OutOfTimeError
        self.trained.append(folder)

        class Telling(Silent):
            def round(self, record: RoundRecord) -> None:
                if watch is not None:
                    watch(record.round)

        try:
            return Run.create(recipe, folder).train(Telling())
        except TrainingError:
            (folder / OUTCOME).write_text("{}")
            return None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load(write_recipe(tmp_path_factory.mktemp("tiny"), federation={"rounds": 12}))


def terms(trials: int = 5, scope: Any = "total", budget: int = BUDGET, **changes: Any) -> Terms:
    return Terms(Budget(budget, scope), trials, **{"most_rounds": 12, "validation": "validation", **changes})


def quiet(*news: Any) -> None:
    pass


def made(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in content["trials"] if line["run"] is not None]


@pytest.fixture(scope="module")
def tuned(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Tuner:
    """After four trials."""
    found = Tuner(tiny, terms(4), tmp_path_factory.mktemp("tuned"), Watched(), quiet)
    assert found.run()
    return found


def test_the_best_of_the_trials_is_chosen_and_none_costs_more_than_the_budget(tuned: Tuner) -> None:
    content = read(tuned.folder)
    assert len(made(content)) == 4
    complete = [line for line in content["trials"] if line["status"] == "complete"]
    assert complete
    for line in complete:
        summary = Run.open(tuned.folder / line["run"]).summary
        assert summary["bytes_up"] + summary["bytes_down"] == line["bytes"] == line["planned_bytes"] <= BUDGET
        assert summary["rounds"] == line["rounds"] <= 12
        assert summary["final_metrics"]["validation"]["accuracy"] == line["metric"]
    assert content["best"]["metric"] == max(line["metric"] for line in complete)
    for line in content["trials"]:
        if line["status"].startswith("stopped"):
            assert 1 <= line["ninths"] < 9
            assert line["metric"] is None
            assert not (tuned.folder / line["run"] / SUMMARY).exists()
    scores = tuned.test()
    assert scores is not None
    assert scores.keys() == {"test"}
    assert read(tuned.folder)["best"]["metrics"] == scores


def test_the_best_recipe_is_whole_and_runs_for_the_same_bytes(tuned: Tuner, tiny: Recipe, tmp_path: Path) -> None:
    text = (tuned.folder / BEST).read_text()
    assert text.splitlines()[0] == f"# igc train {tuned.folder / BEST}"
    recipe = load(tuned.folder / BEST)
    assert Recipe.from_dict(tomllib.loads(text)) == recipe
    assert (recipe.evaluation, recipe.checkpoint, recipe.data) == (tiny.evaluation, tiny.checkpoint, tiny.data)
    summary = Run.create(recipe, tmp_path / "again").train(Silent())
    best = read(tuned.folder)["best"]
    assert summary["bytes_up"] + summary["bytes_down"] == best["bytes"]
    assert summary["rounds"] == best["rounds"]


def test_a_report_shows_its_trials_and_what_became_of_them(tuned: Tuner) -> None:
    (group,) = read_report([tuned.folder])
    shown = {entry.runs[0].folder.name: entry.status for entry in group.entries}
    assert shown == {Path(line["run"]).name: line["status"] for line in made(read(tuned.folder))}
    assert not any(entry.going for entry in group.entries)


def test_a_trial_that_cost_too_much_is_no_result(tuned: Tuner, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned.folder, tmp_path / "tuned"))
    content = read(folder)
    best = next(line for line in content["trials"] if line["status"] == "complete")
    best["status"] = "cost more than the budget"
    (folder / JSON).write_text(json.dumps(content))
    (group,) = read_report([folder])
    (entry,) = [entry for entry in group.entries if entry.runs[0].folder.name == Path(best["run"]).name]
    assert (entry.done, entry.status) == (False, "cost more than the budget")


@pytest.mark.parametrize("at", [0, 4096, 20_480])
def test_a_damaged_database_is_refused_in_a_line(at: int, tuned: Tuner, tiny: Recipe, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned.folder, tmp_path / "tuned"))
    content = bytearray((folder / STUDY).read_bytes())
    content[at : at + 4096] = b"x" * 4096
    (folder / STUDY).write_bytes(content)
    kept = []  # errors hold what they came through: nor may the lock be held by the first
    for _ in range(2):
        with pytest.raises(RunError, match=r"tune\.db: .*; mend that and give the same command again, or") as error:
            Tuner(tiny, terms(4), folder, Watched(), quiet).run()
        kept.append(error)


def test_the_database_of_another_version_of_optuna_is_refused(tuned: Tuner, tiny: Recipe, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned.folder, tmp_path / "tuned"))
    with closing(sqlite3.connect(folder / STUDY)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        database.execute("UPDATE version_info SET schema_version = 99")
    with pytest.raises(
        RunError, match=r"tune\.db was written by another version of optuna than the one here, [\d.]+: "
    ):
        Tuner(tiny, terms(4), folder, Watched(), quiet).run()


def test_a_client_that_has_most_stays_within_its_budget(tiny: Recipe, tmp_path: Path) -> None:
    budget = Budget(2_500, "client")
    Tuner(tiny, terms(2, "client", 2_500), tmp_path, Watched(), quiet).run()
    complete = [line for line in read(tmp_path)["trials"] if line["status"] == "complete"]
    assert complete
    for line in complete:
        assert budget.measured(tmp_path / line["run"]) == line["bytes"] <= 2_500


def test_a_run_that_cost_more_is_never_accepted(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the plan said: what counts is the ledger."""
    monkeypatch.setattr(Rehearsal, "plan", lambda self, recipe, budget, most, *late: Plan(most, 1))
    Tuner(tiny, terms(1, budget=3_000), tmp_path, Watched(), quiet).run()
    content = read(tmp_path)
    assert content["best"] is None
    assert not (tmp_path / BEST).exists()
    over = [line for line in content["trials"] if line["status"] == "cost more than the budget"]
    assert over
    assert all(line["bytes"] > 3_000 for line in over)


def test_time_that_is_up_is_gone_on_from_and_more_trials_are_added(tiny: Recipe, tmp_path: Path) -> None:
    assert not Tuner(tiny, terms(2), tmp_path, Watched(left=1), quiet).run()
    begun = read(tmp_path)
    assert len(made(begun)) == 1
    cut = 1 + max(line["trial"] for line in begun["trials"])
    second = Watched()
    assert Tuner(tiny, terms(2), tmp_path, second, quiet).run()
    assert len(second.trained) == 1
    content = read(tmp_path)
    # The trial that had no time is the first that is made.
    first, again = made(content)
    assert [first] == made(begun)
    assert (again["trial"], again["run"]) == (cut, str(second.trained[0].relative_to(tmp_path)))
    third = Watched()
    assert Tuner(tiny, terms(3), tmp_path, third, quiet).run()
    assert len(third.trained) == 1


class Dying(Watched):
    """Killed at a certain round of a certain trial: nothing is told, nothing is cleaned up."""

    def __init__(self, trial: int, round: int) -> None:
        super().__init__()
        object.__setattr__(self, "at", (trial, round))

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        def dies(done: int) -> None:
            if watch is not None:
                watch(done)
            if (len(self.trained), done) == self.at:  # type: ignore[attr-defined]
                raise KeyboardInterrupt

        return super().run(folder, recipe, dies)


class GoingOn(Watched):
    """As `Watched`, and goes on with runs that were begun."""

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        if folder.exists() and not (folder / SUMMARY).exists():
            shutil.rmtree(folder)
        return super().run(folder, recipe, watch)


def test_a_trial_that_is_interrupted_again_and_again_competes_once(tiny: Recipe, tmp_path: Path) -> None:
    for _ in range(3):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        with pytest.raises(KeyboardInterrupt):
            Tuner(tiny, terms(2), tmp_path, Dying(1, 6), quiet).run()
    assert Tuner(tiny, terms(2), tmp_path, GoingOn(), quiet).run()
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{tmp_path / STUDY}")
    assert [trial.number for trial in study.trials if trial.intermediate_values] == [0, 1]
    assert len(made(read(tmp_path))) == 2


@pytest.mark.parametrize("suggestions", [0, 1, 5])
def test_killed_while_the_recipe_is_drawn_it_is_still_tried_first(
    suggestions: int, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        left = iter(range(suggestions))

        def dies(told: Any) -> Any:
            def suggest(self: optuna.Trial, *arguments: Any, **named: Any) -> Any:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return told(self, *arguments, **named)

            return suggest

        for name in ("suggest_categorical", "suggest_int", "suggest_float"):
            patch.setattr(optuna.Trial, name, dies(getattr(optuna.Trial, name)))
        with pytest.raises(KeyboardInterrupt):
            Tuner(tiny, terms(1), tmp_path, Watched(), quiet).run()
    assert Tuner(tiny, terms(1), tmp_path, Watched(), quiet).run()
    (first,) = made(read(tmp_path))
    assert first["trial"] == 0
    recipe = load(tmp_path / first["run"] / "recipe.toml")
    assert (recipe.method, recipe.codec) == (tiny.method, tiny.codec)
    assert recipe.optimizer.learning_rate == tiny.optimizer.learning_rate


class Failing(Watched):
    """Runs fail by their number."""

    def __init__(self, numbers: set[int]) -> None:
        super().__init__()
        object.__setattr__(self, "numbers", numbers)

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        if len(self.trained) + 1 in self.numbers:  # type: ignore[attr-defined]
            self.trained.append(folder)
            raise RunError("the process ended early (killed)")
        return super().run(folder, recipe, watch)


def test_a_trial_that_fails_holds_up_nobody_else(tiny: Recipe, tmp_path: Path) -> None:
    assert Tuner(tiny, terms(3), tmp_path, Failing({2}), quiet).run()
    lines = [line for line in read(tmp_path)["trials"] if line in trials_of(read(tmp_path))]
    failed = [line for line in lines if line["status"].startswith("failed")]
    assert [(line["status"], line["run"]) for line in failed] == [("failed: the process ended early (killed)", None)]
    assert len(lines) == 3


def test_where_one_after_the_other_fails_it_says_why_and_goes_on_next_time(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^3 trials in a row failed; of the last one, failed: the process ended early"):
        Tuner(tiny, terms(5), tmp_path, Failing({2, 3, 4}), quiet).run()
    again = Watched()
    assert Tuner(tiny, terms(5), tmp_path, again, quiet).run()
    assert len(again.trained) == 1


def test_trials_side_by_side_are_as_many_as_asked_for(tiny: Recipe, tmp_path: Path) -> None:
    assert Tuner(tiny, terms(4), tmp_path, Watched(), quiet).run(jobs=3)
    assert len(made(read(tmp_path))) == 4


def test_while_it_draws_it_can_be_stopped(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Watched()
    tuner = Tuner(tiny, terms(4), tmp_path, executor, quiet)
    rehearsed = Rehearsal.plan
    rounds = []

    def slow(*arguments: Any) -> Plan:
        *others, late = arguments

        def stopped() -> bool:
            rounds.append(1)
            if len(rounds) == 3:
                executor.stop.set()
            return bool(late())

        return rehearsed(*others, stopped)  # type: ignore[call-arg]

    tuner._check_that_it_pays = lambda: None  # type: ignore[method-assign]
    tuner._first = lambda: [tuner._space.own()]  # type: ignore[method-assign]
    monkeypatch.setattr(Rehearsal, "plan", slow)
    assert not tuner.run()
    assert len(rounds) == 3
    assert not executor.trained


def test_a_plan_is_of_the_recipe_that_is_trained(tiny: Recipe, tmp_path: Path) -> None:
    """Also where fewer rounds make subspaces change sooner, so that catching up costs more."""
    pinned = {"method.name": "time-varying", "method.dim": 64, "codec.up": "int8", "codec.down": "int8"}
    base = changed(tiny, pinned)
    shorter = 0
    for budget in range(12_000, 40_000, 700):
        asked = terms(1, budget=budget, most_rounds=40, pinned=frozenset(pinned))
        tuner = Tuner(base, asked, tmp_path / str(budget), Watched(), quiet)
        for turns in (2, 4, 8):
            found = tuner._recipe(tuner._space.draw(Told({**tuner._space.own(), "subspaces in turn": turns})))
            if found is None:
                continue
            recipe, planned = found
            rounds = recipe.federation.rounds
            shorter += rounds < 40
            assert recipe.method.rounds_per_epoch == -(-rounds // turns)
            assert tuner._rehearsal.plan(recipe, Budget(10**9), rounds) == (rounds, planned)
            assert planned <= budget
    assert shorter > 20


def test_what_is_lost_of_a_finished_tuning_is_written_again(tuned: Tuner, tiny: Recipe, tmp_path: Path) -> None:
    folder = shutil.copytree(tuned.folder, tmp_path / "copy")
    before = read(folder)
    for name in (JSON, BEST):
        (folder / name).unlink()
    again = Watched()
    assert Tuner(tiny, terms(4), folder, again, quiet).run()
    assert not again.trained
    before["best"].pop("metrics", None)
    assert read(folder) == before
    assert load(folder / BEST) == load(tuned.folder / BEST)


def test_trials_that_do_worse_are_stopped(tmp_path: Path) -> None:
    """The first comes as far as its rates take it; one that is far behind after a ninth is stopped there."""
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    )
    for number, curve in enumerate(([0.5, 0.9, 0.9, 0.9], [0.1, 0.2, 0.95, 0.95], [0.6, 0.6, 0.6, 0.6])):
        trial = study.ask()
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = [{"round": r, "metrics": {"validation": {"accuracy": v}}} for r, v in enumerate(curve, 1)]
        watch = module._Watch(trial, folder, 4, "validation", "accuracy")
        log = folder / "metrics.jsonl"
        stopped = False
        for count in range(len(lines) + 1):
            log.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
            try:
                watch()
            except optuna.TrialPruned:
                stopped = True
                break
        study.tell(trial, None if stopped else curve[-1], optuna.trial.TrialState.PRUNED if stopped else None)
        assert stopped == (number > 0)
        assert watch.ninths == [9, 2, 4][number]  # the third was best after one round, and not after two


def test_the_recipe_itself_is_tried_first(tuned: Tuner, tiny: Recipe) -> None:
    first = made(read(tuned.folder))[0]
    recipe = load(tuned.folder / first["run"] / "recipe.toml")
    rounds = {"federation": tiny.federation.model_copy(update={"rounds": first["rounds"]})}
    own = {"evaluation": tiny.evaluation, "checkpoint": tiny.checkpoint}
    assert recipe.model_copy(update=own) == tiny.model_copy(update=rounds)


@pytest.mark.parametrize(("budget", "dims"), [(200_000, [256]), (70_000, [256, 128]), (40_000, [64])])
def test_next_is_the_largest_d_whose_rounds_are_all_paid_for(
    budget: int, dims: list[int], tiny: Recipe, tmp_path: Path
) -> None:
    base = changed(tiny, {"method.dim": 256})
    tuner = Tuner(base, terms(1, budget=budget), tmp_path, Watched(), quiet)
    found = [tuner._space.draw(Told(told)).recipe(base, 12) for told in tuner._first()]
    assert found == [changed(base, {"method.dim": d}) for d in dims]


def test_what_was_tried_is_not_tried_again(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two combinations are left to choose among: there are two trials, however many were asked for."""
    monkeypatch.setattr(module, "_IDLE_DRAWS", 8)
    keys = ["method", "codec", "local", "optimizer.learning_rate", "optimizer.schedule", "optimizer.restarts"]
    watched = Watched()
    pinned = frozenset(keys)
    tuner = Tuner(tiny, terms(6, budget=10**6, pinned=pinned), tmp_path, watched, quiet)
    assert tuner.run()
    content = read(tmp_path)
    assert len(watched.trained) == len(made(content)) == len(trials_of(content)) == 2
    assert {line["same_as"] for line in content["trials"] if line["status"] == "tried before"} <= {0, 1}
    repeated = [line for line in content["trials"] if line["status"] == "tried before"]
    assert repeated
    assert all(line["run"] is None for line in repeated)
    assert content["best"]["trial"] in (0, 1)


def test_a_repeated_trial_has_its_twins_value_for_the_sampler() -> None:
    study = optuna.create_study(direction="maximize")
    first, second, third = (study.ask() for _ in range(3))
    first.report(0.4, 3)
    study.tell(first, 0.7)
    module._repeat(study, second, study.trials[0])
    module._repeat(study, third, optuna.trial.create_trial(state=TrialState.RUNNING))
    assert (study.trials[1].value, study.trials[1].intermediate_values) == (0.7, {3: 0.4})
    assert study.trials[2].state == TrialState.FAIL


def test_recipes_with_faults_are_not_called_too_short(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(self: Choice, *arguments: Any) -> Recipe:
        raise RecipeError("tuning: 2 faults:\n  first\n  second")

    monkeypatch.setattr(Choice, "recipe", faulty)
    monkeypatch.setattr(module, "_IDLE_DRAWS", 3)
    tuner = Tuner(tiny, terms(1), tmp_path, Watched(), quiet)
    message = "^3 of 3 draws in a row make no recipe, the last because of tuning: 2 faults: first second; change that"
    with pytest.raises(RunError, match=message):
        tuner.run()


def test_a_burn_in_that_rounds_do_not_last_is_a_fault_of_that_draw(tiny: Recipe, tmp_path: Path) -> None:
    """Of a draw, not of the tuning: others last longer."""
    base = changed(tiny, {"method.burn_in": 8, "method.learned": 2})
    tuner = Tuner(base, terms(3, budget=18_000), tmp_path, Watched(), quiet)
    assert tuner.run()
    lines = read(tmp_path)["trials"]
    assert len(made(read(tmp_path))) == 3
    assert all("leave none" in line["about"] for line in lines if line["status"] == "makes no recipe")


def test_the_split_that_is_reported_chooses_nothing(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="split 'test' would choose among trials and be reported, too: name another"):
        Tuner(tiny, terms(1, validation="test"), tmp_path, Watched(), quiet)


def test_the_command_refuses_to_choose_on_what_it_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "tiny", evaluation={"splits": ["validation"]})
    outcome = igc(["tune", str(recipe), "--bytes", "30000", "--out", str(tmp_path / "out")], capsys, monkeypatch)
    assert (outcome.code, "split 'validation' would choose" in outcome.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_tuning_in_another_search_space_is_refused(
    tuned: Tuner, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VERSION", VERSION + 1)
    message = f"holds a tuning with search_space_version = {VERSION}, not {VERSION + 1}; choose another folder"
    with pytest.raises(RunError, match=message):
        Tuner(tiny, terms(4), tuned.folder, Watched(), quiet).run()


def test_another_tuning_is_refused(tuned: Tuner, tiny: Recipe) -> None:
    with pytest.raises(RunError, match=r"holds a tuning with bytes = 30000, not 40000; choose another folder"):
        Tuner(tiny, terms(1, budget=40_000), tuned.folder, Watched(), quiet).run()
    with pytest.raises(RunError, match="holds a tuning of another recipe"):
        Tuner(tiny.model_copy(update={"seed": 6}), terms(1), tuned.folder, Watched(), quiet)


def test_a_budget_that_pays_for_nothing_says_so(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"900 bytes pays for fewer than 5 rounds of static, d .*; raise --bytes"):
        Tuner(tiny, terms(1, budget=900), tmp_path, Watched(), quiet).run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.name=fedsgd"], "tuning is of subspaces; pin one of static, time-varying, k-subspace, or none"),
        (["method.name=time-varying", "method.change=plateau"], "what catching up will cost cannot be foreseen"),
        (['method={name="fedsgd"}'], "tuning is of subspaces; pin one of static, time-varying, k-subspace, or none"),
        (['method={name="time-varying",dim=64,change="plateau"}'], "what catching up will cost cannot be foreseen"),
    ],
)
def test_what_cannot_be_tuned_is_refused(settings: list[str], message: str, tiny: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny.to_toml())
    pinned = frozenset(text.partition("=")[0] for text in settings)
    with pytest.raises(RunError, match=message):
        Tuner(load(path, settings), terms(pinned=pinned), tmp_path / "out", Watched(), quiet)


@pytest.mark.slow
def test_killed_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path / "tiny", federation={"rounds": 60})
    folder = tmp_path / "out"
    command = ["tune", str(recipe), "--bytes", "300000", "--trials", "3", "--out", str(folder)]
    process = start(command, tmp_path)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        logs = list(folder.glob("runs/*/metrics.jsonl"))
        if logs and max(log.read_bytes().count(b"\n") for log in logs) > 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begun = {path.name for path in (folder / "runs").iterdir()}
    outcome = igc(command, capsys, monkeypatch)
    assert outcome.code == 0, outcome.err
    content = read(folder)
    assert {Path(line["run"]).name for line in made(content)} >= begun
    assert len(made(content)) == 3
    assert content["best"]["bytes"] <= 300_000
    assert "igc train" in outcome.out
    assert (folder / JSON).exists()


def test_no_time_at_all_is_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["tune", str(write_recipe(tmp_path / "tiny")), "--bytes", "300kB", "--max-hours", "0"]
    outcome = igc([*command, "--out", str(tmp_path / "out")], capsys, monkeypatch)
    assert outcome.code == 0
    assert "time is up" in outcome.err
    assert "no trial was accepted" not in outcome.err
