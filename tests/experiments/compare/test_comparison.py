"""Comparisons of tiny runs: real training, real folders; runs in this process, but for the test of processes."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from rich.console import Console

from igc.errors import IgcError, RunError, TrainingError
from igc.experiments import metrics
from igc.experiments.compare import JSON, campaign, execute
from igc.experiments.compare.campaign import Terms
from igc.experiments.compare.comparison import CSV, compare, read
from igc.experiments.compare.entrant import Entrant
from igc.experiments.compare.entrants import entrants
from igc.experiments.compare.execute import OUTCOME, Executor, OutOfTimeError
from igc.experiments.compare.one import Silent
from igc.experiments.compare.table import AtWork, table
from igc.experiments.progress import RoundRecord
from igc.experiments.recipe import RECIPE, Recipe, load
from igc.experiments.run import SUMMARY, Run
from support.command import igc, start
from support.in_this_process import InThisProcess
from support.tiny import write_recipe


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load(write_recipe(tmp_path_factory.mktemp("tiny"), federation={"rounds": 4}))


def terms(**changes: Any) -> Terms:
    return Terms(
        **{"rounds": 4, "budget": None, "seeds": 2, "trials": 2, "test": "test", "validation": "validation", **changes}
    )


def quiet(*news: Any) -> None:
    pass


def run(base: Recipe, names: list[str], asked: Terms, folder: Path, executor: Executor) -> tuple[Any, list[str]]:
    lines, unfinished, failures = compare(base, entrants(names), asked, folder, executor, 1, quiet)
    for error in failures.values():
        raise error
    return lines, unfinished


def test_the_table_is_what_the_runs_say(tiny: Recipe, tmp_path: Path) -> None:
    executor = InThisProcess()
    lines, unfinished = run(tiny, ["static", "fedsgd"], terms(), tmp_path, executor)
    assert not unfinished
    assert lines == json.loads((tmp_path / JSON).read_text()) == read(tmp_path)
    assert [line["method"] for line in lines] == ["static", "fedsgd"]
    for line in lines:
        runs = [Run.open(tmp_path / folder) for folder in line["runs"]]
        assert [r.recipe.seed for r in runs] == [5, 6]
        assert {r.recipe.optimizer.learning_rate for r in runs} == {line["learning_rate"]}
        test = [r.summary["final_metrics"]["test"]["accuracy"] for r in runs]
        assert line["metric"] == fmean(test)
        assert line["metric_std"] == stdev(test)
        assert line["bytes_up"] == fmean(r.summary["bytes_up"] for r in runs)
        assert line["bytes_down"] == fmean(r.summary["bytes_down"] for r in runs)
        assert (line["rounds"], line["seeds"], line["status"]) == (4, 2, "complete")
        assert len(line["trials"]) == 2
        # Chosen on validation, and the choice was the best there.
        best = max(trial["metric"] for trial in line["trials"])
        chosen = [trial["metric"] for trial in line["trials"] if trial["learning_rate"] == line["learning_rate"]]
        assert chosen == [best] == [runs[0].summary["final_metrics"]["validation"]["accuracy"]]
    with (tmp_path / CSV).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["static", "fedsgd"]
    assert float(rows[0]["metric"]) == lines[0]["metric"]


def test_what_was_run_is_not_run_again_and_time_that_is_up_is_gone_on_from(tiny: Recipe, tmp_path: Path) -> None:
    whole = InThisProcess()
    expected, _ = run(tiny, ["static", "fedsgd"], terms(), tmp_path / "whole", whole)
    first = InThisProcess(left=4)
    lines, unfinished = run(tiny, ["static", "fedsgd"], terms(), tmp_path / "cut", first)
    assert unfinished == ["fedsgd"]
    assert [line["method"] for line in lines] == ["static"]
    second = InThisProcess()
    lines, unfinished = run(tiny, ["static", "fedsgd"], terms(), tmp_path / "cut", second)
    assert not unfinished
    assert len(first.trained) + len(second.trained) == len(whole.trained)
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in found] for found in (lines, expected)]
    assert timeless[0] == timeless[1]
    assert lines[0]["versions"]["torch"] == version("torch")
    assert lines[0]["device"] == "CPU"


def test_more_methods_join_later_and_another_recipe_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    executor = InThisProcess()
    run(tiny, ["static"], terms(seeds=1), tmp_path, executor)
    lines, *_ = run(tiny, ["fedsgd"], terms(seeds=1, trials=1, validation=None), tmp_path, executor)
    assert [line["method"] for line in lines] == ["static", "fedsgd"]
    with pytest.raises(RunError, match="holds a comparison of another recipe"):
        run(tiny.model_copy(update={"seed": 6}), ["static"], terms(), tmp_path, executor)


@pytest.mark.parametrize("budget", [6_000, 20_000, 900_000])
def test_a_budget_of_bytes_is_spent_and_not_passed(budget: int, tiny: Recipe, tmp_path: Path) -> None:
    cap = 30
    asked = terms(budget=budget, rounds=cap, seeds=1, trials=1, validation=None)
    lines, *_ = run(tiny, ["static", "fedsgd", "time-varying"], asked, tmp_path, InThisProcess())
    for line in lines:
        if line["rounds"] == 0:
            assert line["metric"] is None
            cost = re.fullmatch(r"not one round fits the budget: it costs ([\d.]+) kB", line["status"])
            assert cost is not None
            assert 1000 * float(cost[1]) > budget
            continue
        (folder,) = (tmp_path / r for r in line["runs"])
        assert line["bytes_up"] + line["bytes_down"] <= budget
        last = metrics.read(folder / "metrics.jsonl")[-1]
        per_round = last["total_up"] + last["total_down"]
        assert line["rounds"] == cap or per_round + last["bytes_up"] + last["bytes_down"] > 0.85 * budget
    rounds = {line["method"]: line["rounds"] for line in lines}
    assert rounds["fedsgd"] <= rounds["time-varying"] <= rounds["static"]


def test_a_folder_of_a_run_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    Run.create(tiny, tmp_path / "run").train(Silent())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match="holds a run"):
        run(tiny, ["static"], terms(), tmp_path / "run", InThisProcess())
    assert sorted(tmp_path.rglob("*")) == before


def test_two_calls_in_one_folder_keep_each_others_lines(tiny: Recipe, tmp_path: Path) -> None:
    asked, calls = terms(seeds=1, trials=1, validation=None), iter([None])

    def another_call(*news: Any) -> None:
        for _ in calls:
            run(tiny, ["fedsgd"], asked, tmp_path, InThisProcess())

    compare(tiny, entrants(["static"]), asked, tmp_path, InThisProcess(), 1, another_call)
    assert {line["method"] for line in read(tmp_path)} == {"static", "fedsgd"}


def test_what_is_reported_does_not_choose() -> None:
    with pytest.raises(RunError, match=r"'test' would choose .* --validation"):
        terms(validation="test")


def test_an_entrant_that_breaks_down_is_a_line_too(tiny: Recipe, tmp_path: Path) -> None:
    wild = [Entrant("wild", "", {"optimizer.name": "sgd"}, start=1e30)]
    lines, *_ = compare(tiny, wild, terms(seeds=1), tmp_path, InThisProcess(), 1, quiet)
    assert lines[0]["metric"] is None
    assert "broke down" in lines[0]["status"]
    assert [trial["metric"] for trial in lines[0]["trials"]] == [None, None]


def test_a_fault_comes_out_before_anything_is_trained(tiny: Recipe, tmp_path: Path) -> None:
    executor = InThisProcess()
    with pytest.raises(IgcError, match="means nothing where name = 'fedsgd'"):
        run(tiny, ["static", "fedsgd+method.dim=7"], terms(), tmp_path, executor)
    assert not executor.trained


def test_other_terms_in_the_same_folder_are_other_runs(tiny: Recipe, tmp_path: Path) -> None:
    """Without a validation split, with one, with another, and back: what was trained serves wherever it can."""
    executor = InThisProcess()

    def one(names: list[str], **changes: Any) -> Any:
        asked = terms(seeds=1, rounds=2, **changes)
        lines, *_ = run(tiny, names, asked, tmp_path, executor)
        return lines[-1]

    plain = one(["static"], trials=1, validation=None)
    tuned = one(["static"])
    assert [trial["metric"] is not None for trial in tuned["trials"]] == [True, True]
    trained = len(executor.trained)
    assert trained == len(set(executor.trained)) == 3
    assert (one(["static"]), len(executor.trained)) == (tuned, trained)
    assert one(["static"], trials=1, validation=None) == plain
    assert len(executor.trained) == trained
    swapped = one(["static"], test="validation", validation="test")
    assert swapped["metric"] != tuned["metric"]
    assert len(executor.trained) == trained + 2


def test_an_entrant_that_has_become_another_is_trained_anew(tiny: Recipe, tmp_path: Path) -> None:
    executor, asked = InThisProcess(), terms(seeds=1, rounds=2, trials=1, validation=None)
    for dim in (16, 32, 16):
        compare(tiny, [Entrant("mine", "", {"method.dim": dim})], asked, tmp_path, executor, 1, quiet)
        [line] = read(tmp_path)
        assert Run.open(tmp_path / line["runs"][0]).recipe.method.dim == dim
    assert len(executor.trained) == 2


class Fragile(InThisProcess):
    """Training breaks down after two rounds at rates of ``bar`` and more."""

    bar = math.inf

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        if recipe.optimizer.learning_rate < self.bar or (folder / OUTCOME).exists():
            return super().run(folder, recipe, watch)

        class Breaking(Silent):
            def round(self, record: RoundRecord) -> None:
                if record.round == 2:
                    raise TrainingError("the loss is not finite")

        with pytest.raises(TrainingError):
            Run.create(recipe, folder).train(Breaking())
        (folder / OUTCOME).write_text("{}")
        return None


@pytest.mark.parametrize("trials", [1, 3])
def test_the_rounds_of_a_budget_are_found_where_the_first_rate_breaks_down(
    trials: int, tiny: Recipe, tmp_path: Path
) -> None:
    asked = terms(budget=20_000, rounds=60, seeds=1, trials=trials, validation="validation" if trials > 1 else None)
    (calm,), _ = run(tiny, ["static"], terms(**{**vars(asked), "trials": 1}), tmp_path / "calm", InThisProcess())
    assert 3 < calm["rounds"] < 60
    fragile = Fragile()
    object.__setattr__(fragile, "bar", 0.02)
    (line,), _ = run(tiny, ["static"], asked, tmp_path / "fragile", fragile)
    assert line["rounds"] == calm["rounds"]
    assert (line["metric"] is None) == (trials == 1)  # untuned, the first rate is all that there is
    object.__setattr__(fragile, "bar", 0.0)
    (line,), _ = run(tiny, ["static"], asked, tmp_path / "hopeless", fragile)
    assert abs(line["rounds"] - calm["rounds"]) <= 1  # by what two rounds cost
    assert "broke down" in line["status"]


def top_k_over(tiny: Recipe, folder: Path) -> tuple[Recipe, int, int]:
    """A recipe whose seed takes fewer bytes with local top-k than the next seed, and what both take."""
    asked = terms(rounds=5, trials=1, validation=None)
    spent = []
    for seed in range(4):
        base = tiny.model_copy(update={"seed": seed})
        (line,), _ = run(base, ["local-top-k"], replace(asked, seeds=1), folder / str(seed), InThisProcess())
        spent.append(int(line["bytes_up"] + line["bytes_down"]))
        if seed and spent[-2] < spent[-1]:
            return tiny.model_copy(update={"seed": seed - 1}), spent[-2], spent[-1]
    raise AssertionError(f"no seed takes more than the one before: {spent}")


def test_no_seed_passes_the_budget(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What local top-k sends down depends on the seed: the first may fit where the second does not."""
    base, first, second = top_k_over(tiny, tmp_path)
    asked = terms(budget=first, rounds=5, trials=1, validation=None)
    (line,), _ = run(base, ["local-top-k"], asked, tmp_path / "cut", InThisProcess())
    summaries = [Run.open(tmp_path / "cut" / folder).summary for folder in line["runs"]]
    assert [summary["rounds"] for summary in summaries] == [line["rounds"]] * 2
    assert all(summary["bytes_up"] + summary["bytes_down"] <= first for summary in summaries)
    assert (line["status"], line["rounds"], line["seeds"]) == ("complete", 4, 2)
    monkeypatch.setattr(campaign, "_ATTEMPTS", 1)
    (line,), _ = run(base, ["local-top-k"], asked, tmp_path / "over", InThisProcess())
    assert line["status"] == f"{second - first:,} bytes over the budget under seed 1"
    assert line["metric"] is None


class Diverged(InThisProcess):
    """Runs of the second seed end with a metric that is not finite."""

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        summary = super().run(folder, recipe, watch)
        if summary is not None and recipe.seed == 6:
            summary["final_metrics"]["test"]["accuracy"] = None
        return summary


def test_a_metric_that_is_not_finite_is_no_result(tiny: Recipe, tmp_path: Path) -> None:
    asked = terms(rounds=1, trials=1, validation=None)
    (line,), _ = run(tiny, ["static"], asked, tmp_path, Diverged())
    assert line["status"] == "accuracy is not finite under seed 1"
    assert line["metric"] is None
    assert line["metrics"][0] is not None
    assert line["metrics"][1] is None


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / JSON).write_text('{"method"')
    with pytest.raises(RunError, match=r"comparison\.json.*runs are kept"):
        read(tmp_path)


def test_a_run_in_its_own_process_stops_with_a_checkpoint_and_goes_on(tiny: Recipe, tmp_path: Path) -> None:
    long = tiny.model_copy(update={"federation": tiny.federation.model_copy(update={"rounds": 400})})
    executor = Executor(threads=1)
    folder = tmp_path / "run"

    def interrupt(rounds: int) -> None:
        if rounds >= 5:
            executor.stop.set()

    with pytest.raises(OutOfTimeError):
        executor.run(folder, long, interrupt)
    done = metrics.read(folder / "metrics.jsonl")[-1]["round"]
    assert 5 <= done < 400
    assert not (folder / SUMMARY).exists()
    short = long.federation.model_copy(update={"rounds": done + 2})
    (folder / RECIPE).write_text(long.model_copy(update={"federation": short}).anchored().to_toml())
    summary = Executor(threads=1).run(folder, long)
    assert summary is not None
    assert summary["rounds"] == done + 2
    assert [record["round"] for record in metrics.read(folder / "metrics.jsonl")] == list(range(done + 3))


def test_a_run_that_cannot_be_made_says_why(tiny: Recipe, tmp_path: Path) -> None:
    wrong = tiny.model_copy(update={"evaluation": tiny.evaluation.model_copy(update={"splits": ("tset",)})})
    with pytest.raises(RunError, match=r"no split 'tset' \(did you mean 'test'"):
        Executor(threads=1).run(tmp_path / "run", wrong)


def test_no_time_at_all_trains_nothing(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(OutOfTimeError):
        Executor(threads=1, deadline=time.monotonic()).run(tmp_path / "run", tiny)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_command_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "tiny")
    folder = tmp_path / "out"
    arguments = ["compare", str(recipe), "--methods", "static", "--rounds", "2", "--no-tune", "--out", str(folder)]
    outcome = igc(arguments, capsys, monkeypatch)
    assert outcome.code == 0
    assert "Tiny: 2 rounds each" in outcome.out
    assert f"igc report {folder}" in outcome.out
    assert "static, rate 0.02, seed 5, 2 rounds" in outcome.err
    listed = igc(["compare", str(recipe), "--methods", "list"], capsys, monkeypatch)
    assert "McMahan" in listed.out
    refused = igc(["compare", str(recipe), "--methods", "sttic"], capsys, monkeypatch)
    assert (refused.code, "did you mean 'static'?" in refused.err) == (2, True)
    nobody = igc(["compare", str(recipe), "--methods", ""], capsys, monkeypatch)
    assert (nobody.code, "--methods list" in nobody.err) == (2, True)


def test_of_all_methods_those_that_do_not_fit_are_left_out_and_settings_are_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time at all: what would be trained is in the folders, and nothing is."""
    folder = tmp_path / "out"
    arguments = ["compare", "fashion-mnist", "--methods", "all", "--max-hours", "0", "--out", str(folder)]
    outcome = igc([*arguments, "--set", "codec.down=int8"], capsys, monkeypatch)
    assert outcome.code == 0
    [line] = [line for line in outcome.err.splitlines() if line.startswith("left out")]
    assert line.startswith("left out fedavg-lora, ffa-lora, uni-lora: model.lora_rank: ")
    recipes = {path.parent.parent.name: load(path) for path in folder.glob("runs/*/*/recipe.toml")}
    assert {"static", "fedsgd", "powersgd"} <= recipes.keys()
    assert {recipe.codec.down for recipe in recipes.values()} == {"int8"}
    assert recipes["eden"].codec.up == "eden-1"


def test_killed_while_it_tunes_it_goes_on_to_the_same_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "tiny", federation={"rounds": 30})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["compare", str(recipe), "--methods", "static", "--trials", "2", "--out"]
    assert igc([*command, str(whole)], capsys, monkeypatch).code == 0
    process = start([*command, str(cut)], tmp_path)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if any(log.read_bytes().count(b"\n") > 5 for log in cut.glob("runs/static/rate-0.0632*/metrics.jsonl")):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read(cut) == []
    assert len(list(cut.glob("runs/static/*/summary.json"))) == 1
    outcome = igc([*command, str(cut)], capsys, monkeypatch)
    assert outcome.code == 0, outcome.err
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in read(folder)] for folder in (whole, cut)]
    assert timeless[0] == timeless[1]


def test_an_entrant_that_fails_hides_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That k exceeds the model is found where the model is: in the run, which is then taken back."""
    recipe, folder, wild = write_recipe(tmp_path / "tiny"), tmp_path / "out", "local-top-k+method.k=99999999"
    arguments = ["compare", str(recipe), "--methods", f"{wild},static", "--rounds", "2", "--no-tune"]
    outcome = igc([*arguments, "--out", str(folder)], capsys, monkeypatch)
    assert outcome.code == 2
    assert "Tiny: 2 rounds each" in outcome.out
    assert "static" in outcome.out
    assert f"failed  {wild}: " in outcome.err
    assert "99,999,999" in outcome.err
    assert [line["method"] for line in read(folder)] == ["static"]
    assert [path.parent.parent.name for path in (folder / "runs").glob("*/*/recipe.toml")] == ["static"]


def test_methods_keep_their_names_on_a_narrow_terminal() -> None:
    fits = {
        **dict.fromkeys(("title", "metric_name"), "accuracy"), "budget": "bytes", "budget_bytes": 5_000_000,
        "metric": 0.85, "metric_std": 0.01, "seeds": 3, "higher_is_better": True, "bytes_up": 1_256_789,
        "bytes_down": 3_712_345, "factor": 10_890.0, "rounds": 75, "learning_rate": 0.00158, "seconds": 409.0,
    }  # fmt: skip
    none = {**fits, "metric": None, "status": "not one round fits the budget: it costs 4.30 GB"}
    lines = [{**fits, "method": "static-1bit+codec.down=eden-4"}, {**none, "method": "local-top-k"}]
    for width in (80, 120):
        console = Console(width=width, file=io.StringIO())
        for found in table(lines):
            console.print(found)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert {"static-1bit", "local-top-k"} <= set(shown.split()), width
        assert "notoneroundfits" in "".join(shown.split())
        assert {"0.8500", "1.26", "10,890x", "75", "6:49"} <= set(shown.split()), width


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "RECIPE", "--methods", 'static+space.include=["*[a-z]*"]', "--rounds", "2", "--no-tune"],
        ["dimension", "RECIPE", "--rounds", "2", "--no-tune", "--target", "0", "--measure", "gain", "--start", "1"],
        ["tune", "RECIPE", "--bytes", "60000", "--trials", "1", "--rounds", "2"],
    ],
    ids=lambda command: command[0],
)
def test_brackets_in_titles_and_paths_are_text(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it goes well, runs out of time or is interrupted."""
    recipe, folder = write_recipe(tmp_path / "tiny [b]", title="Tiny [a/b] [/x] c"), tmp_path / "out [b] [" / "x] d"
    arguments = [str(recipe) if word == "RECIPE" else word for word in command] + ["--out", str(folder)]
    monkeypatch.setattr(execute, "Executor", lambda *_: InThisProcess(left=0))
    late = igc(arguments, capsys, monkeypatch)
    assert (late.code, "time is up" in late.err) == (0, True), late.err
    if command[0] == "compare":
        assert f"time is up: {command[3]};" in late.err
    monkeypatch.setattr(execute, "Executor", lambda *_: InThisProcess())
    outcome = igc(arguments, capsys, monkeypatch)
    assert outcome.code == 0, outcome.err
    assert f"written  {folder}" in outcome.out
    if command[0] == "compare":
        assert "Tiny [a/b] [/x] c: 2 rounds each" in outcome.out
        assert '+include=["*[a-z]*"]' in outcome.out

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AtWork, "__enter__", interrupt)
    stopped = igc(arguments, capsys, monkeypatch)
    assert (stopped.code, stopped.err) == (130, f"interrupted; the same command goes on from {folder}\n")
