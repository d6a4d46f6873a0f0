"""Reading runs and comparisons: whole, unfinished, mixed and broken."""

from __future__ import annotations

import json
import math
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import pytest
import tomli_w

from igc.errors import RunError
from igc.experiments import metrics
from igc.experiments.compare import JSON
from igc.experiments.compare.campaign import COMPLETE, Terms
from igc.experiments.compare.comparison import compare
from igc.experiments.compare.entrants import entrants
from igc.experiments.compare.one import Silent
from igc.experiments.format import format_bytes
from igc.experiments.recipe import load
from igc.experiments.report.look import styles
from igc.experiments.report.page import write
from igc.experiments.report.plots import FILE, course, frontier, pareto
from igc.experiments.report.read import Group, read
from igc.experiments.report.words import headline
from igc.experiments.run import Run
from igc.experiments.tune import JSON as TUNING
from support.command import igc
from support.in_this_process import InThisProcess
from support.tiny import write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"), federation={"rounds": 4}, evaluation={"every": 2})


@pytest.fixture(scope="module")
def runs(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    settings = {"a": ["seed=1"], "b": ["seed=2"], "c": ["method.name=fedsgd"], "d": ["method.dim=8"]}
    for name, overrides in settings.items():
        Run.create(load(recipe, overrides), root / name).train(Silent())
    return [root / name for name in settings]


@pytest.fixture
def live(runs: list[Path], tmp_path: Path) -> Path:
    """A run caught after its third round, in the middle of writing a line."""
    folder = tmp_path / "live"
    shutil.copytree(runs[0], folder)
    (folder / "summary.json").unlink()
    for log in ("metrics.jsonl", "ledger.jsonl"):
        lines = (folder / log).read_text().splitlines(keepends=True)
        (folder / log).write_text("".join(lines[:-1]) + lines[-1][:17])
    return folder


def test_runs_under_several_seeds_are_one_entry_and_others_are_told_apart(runs: list[Path]) -> None:
    (group,) = read(runs)
    names = {entry.name: entry for entry in group.entries}
    assert set(names) == {"static, dim=64", "static, dim=8", "fedsgd"}
    seeds = names["static, dim=64"]
    final = [json.loads((run / "summary.json").read_text())["final_metric"] for run in runs[:2]]
    assert (seeds.metric, seeds.metric_std) == (fmean(final), stdev(final))
    assert [(point.round, point.std) for point in course(seeds)][-1] == (4, stdev(final))
    assert seeds.status == COMPLETE


def test_a_run_under_way_gives_what_it_has(live: Path, tmp_path: Path) -> None:
    (group,) = read([live])
    (entry,) = group.entries
    assert entry.status == "in progress: round 3 of 4"
    assert not entry.done
    evaluated = [record for record in metrics.read(live / "metrics.jsonl") if "metric" in record]
    assert [point.metric for point in course(entry)] == [record["metric"] for record in evaluated]
    # Evaluated after round 2: its bytes are told, not those of round 3.
    (after,) = (record for record in evaluated if record["round"] == 2)
    assert headline(group).startswith("static so far: accuracy")
    assert headline(group).endswith(f"after 2 of 4 rounds, for {format_bytes(after['total_up'] + after['total_down'])}")
    out = tmp_path / "report.html"
    write([group], out)
    assert "in progress: round 3 of 4" in out.read_text()


def test_a_run_that_ended_in_no_number_has_no_metric(runs: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs[0], tmp_path / "run")
    log, summary = folder / "metrics.jsonl", folder / "summary.json"
    lines = log.read_text().splitlines()
    lines[-1] = json.dumps({**json.loads(lines[-1]), "metric": None})
    log.write_text("\n".join(lines) + "\n")
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "final_metric": None}))
    (group,) = read([folder])
    (entry,) = group.entries
    assert entry.metric is None
    assert entry.status == "accuracy is not finite after the last round, under seed 1"
    write([group], tmp_path / "report.html")
    assert entry.status in (tmp_path / "report.html").read_text()


def test_a_finished_run_whose_log_is_torn_is_refused(runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(runs[0], folder)
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text()[:-40])
    with pytest.raises(RunError, match=r"metrics\.jsonl ends after round 3, though the run is finished, with 4"):
        read([folder])


def test_runs_of_other_lengths_are_told_apart_by_their_rounds(recipe: Path, tmp_path: Path) -> None:
    warm = ["optimizer.warmup_rounds=4"]
    for rounds in (4, 3):
        settings = [f"federation.rounds={rounds}", f"optimizer.warmup_rounds={rounds}"] if rounds < 4 else warm
        Run.create(load(recipe, settings), tmp_path / str(rounds)).train(Silent())
    (group,) = read([tmp_path / "4", tmp_path / "3"])
    assert {entry.name for entry in group.entries} == {"static, rounds=4", "static, rounds=3"}


def test_a_legend_of_long_names_stays_within_the_picture(runs: list[Path]) -> None:
    (group,) = read(runs)
    named = [replace(entry, name=f"{entry.name}, {'a setting and its value ' * 9}") for entry in group.entries]
    figure = pareto(Group("Tiny", tuple(named)), styles(named), "pareto").draw(FILE)
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_a_run_that_has_only_begun_gives_a_page(recipe: Path, tmp_path: Path) -> None:
    Run.create(load(recipe), tmp_path / "run")
    assert write(read([tmp_path / "run"]), tmp_path / "report.html") == [tmp_path / "report.html"]
    assert "round 0 of 4" in (tmp_path / "report.html").read_text()


def test_entrants_without_a_line_are_shown_as_far_as_they_are(recipe: Path, tmp_path: Path) -> None:
    base = load(recipe)
    terms = Terms(4, None, 1, 1, "test", None)
    _, unfinished, _ = compare(base, entrants(["static"]), terms, tmp_path, InThisProcess(), 1, lambda *_: None)
    assert not unfinished
    Run.create(entrants(["fedsgd"])[0].recipe(base, 0.1, {}), tmp_path / "runs" / "fedsgd" / "rate-0.1")
    (group,) = read([tmp_path])
    assert [(e.name, e.done) for e in group.entries] == [("static", True), ("fedsgd", False)]
    assert group.entries[1].status == "in progress: 0 runs finished, the next at round 0 of 4"


def test_the_frontier_is_what_nothing_beats_for_fewer_bytes(runs: list[Path]) -> None:
    (group,) = read(runs)
    best = frontier(group.entries, higher_is_better=True)
    for entry in group.entries:
        assert entry.metric is not None
        beaten = any(
            o.total <= entry.total and o.metric is not None and o.metric >= entry.metric and o is not entry
            for o in group.entries
        )
        assert (entry in best) != beaten


def test_a_headline_never_holds_uncompressed_training_against_itself(runs: list[Path]) -> None:
    (group,) = read(runs)
    (whole,) = (entry for entry in group.entries if entry.name == "fedsgd")
    assert whole.metric is not None
    shorter = replace(whole, bytes_up=whole.bytes_up / 2, metric=whole.metric - 1e-6)
    said = headline(Group("Tiny", (whole, shorter, *(entry for entry in group.entries if entry is not whole))))
    assert said.startswith("static, dim=")
    assert "uncompressed training reaches" in said


def test_mixed_input_from_the_command_line(
    runs: list[Path], live: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pages" / "mixed.html"
    outcome = igc(["report", str(runs[2]), str(live), "--out", str(out)], capsys, monkeypatch)
    assert (outcome.code, outcome.err) == (0, "")
    assert str(out) in outcome.out
    assert out.with_name("mixed-plots").is_dir()
    html = out.read_text()
    assert 'data-method="fedsgd"' in html
    assert 'data-method="static"' in html


def _damage(name: str, text: str | None) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)

    return damage


def _change(name: str, key: str, value: object) -> Callable[[Path], None]:
    """Another value in a file's first line, or in all of it."""

    def damage(folder: Path) -> None:
        path = folder / name
        if name.endswith(".toml"):
            path.write_text(tomli_w.dumps({**tomllib.loads(path.read_text()), key: value}))
            return
        first, *others = path.read_text().splitlines() if name.endswith("jsonl") else [path.read_text()]
        path.write_text("\n".join([json.dumps({**json.loads(first), key: value}), *others]) + "\n")

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (shutil.rmtree, "does not exist"),
        (_damage("recipe.toml", None), "holds no run, no comparison and no tuning"),
        (_damage("recipe.toml", "seed = ["), "cannot read"),
        (_damage("recipe.toml", "seed = 1"), "has no federation.rounds"),
        (_damage("metrics.jsonl", "{}\n"), "metrics.jsonl, line 1: no record of a round"),
        (_damage("metrics.jsonl", '{"round": 0}\n'), "metrics.jsonl, round 0: no number for total_up"),
        (_damage("metrics.jsonl", None), "metrics.jsonl is missing, though the run is finished"),
        (_damage("ledger.jsonl", '{"round": 1, "clients": {"a": {}}}\n'), "no bytes up and down of client 'a'"),
        (_damage("ledger.jsonl", '{"round": 1}\n'), "round 1: names no clients"),
        (_damage("summary.json", "{"), "summary.json"),
        (_damage("summary.json", "[]"), "does not hold what it should; `igc resume` the run writes it anew"),
        (_change("recipe.toml", "method", {"name": "static", "dim": "x"}), "recipe.toml: method.dim = 'x' is no whole"),
        (_change("recipe.toml", "codec", {"up": "zip"}), "recipe.toml: codec.up = 'zip' is no codec"),
        (_change("recipe.toml", "seed", 1e400), "recipe.toml: seed = inf is no whole number"),
        (_change("metrics.jsonl", "metric", "abc"), "metrics.jsonl, round 0: metric = 'abc' is no number"),
        (_change("metrics.jsonl", "loss", []), "metrics.jsonl, round 0: loss = [] is no number"),
        (_change("metrics.jsonl", "seconds", math.nan), "metrics.jsonl, round 0: seconds = nan is no number"),
        (_damage("summary.json", '{"rounds": "x"}'), "summary.json: rounds = 'x' is no whole number; `igc resume` the"),
        (
            _change("summary.json", "table", {"predicted_up": "x"}),
            "summary.json: table.predicted_up = 'x' is no number",
        ),
        (_change("summary.json", "versions", 3), "summary.json: versions = 3 is no table"),
        (_damage(TUNING, '{"trials": [{"run": "runs/x"}]}'), "tune.json, trial 1 of the list: has a run and no status"),
        (_damage(TUNING, '{"trials": [{"run": 3}]}'), "tune.json, trial 1 of the list: run = 3 is no text; delete it"),
        (_damage(TUNING, '{"trials": null}'), "tune.json has no list of trials; delete it and tune again"),
        (_damage(TUNING, '{"trials": [3]}'), "tune.json has no list of trials"),
        (_damage(TUNING, "[3]"), "tune.json does not hold what it should; delete it and tune again"),
        (_damage(JSON, '[{"method": "static", "metric": "x"}]'), "the line of 'static': metric = 'x' is no number"),
        (_damage(JSON, "{}"), "is no list of results"),
        (_damage(JSON, '[{"method": "static"}]'), "the line of 'static' has no 'runs'"),
        (_damage(JSON, '[{"method": "static", "runs": ["gone"]}]'), "which holds no recipe.toml"),
    ],
)
def test_what_is_missing_or_broken_is_one_line_and_exit_code_2(
    damage: Callable[[Path], None],
    says: str,
    runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    damage(folder)
    outcome = igc(["report", str(folder), "--out", str(tmp_path / "r.html")], capsys, monkeypatch)
    assert outcome.code == 2
    assert says in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "r.html").exists()
