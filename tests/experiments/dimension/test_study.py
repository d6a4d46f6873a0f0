"""A study of a tiny recipe: real training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from igc.errors import RunError
from igc.experiments.compare.comparison import read
from igc.experiments.dimension.plot import write_plot
from igc.experiments.dimension.study import Point, Study, _Scale
from igc.experiments.recipe import load
from support.command import igc
from support.in_this_process import InThisProcess
from support.tiny import write_recipe


def test_the_command_finds_a_d_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [2]
    monkeypatch.setattr("igc.experiments.compare.execute.Executor", lambda threads, deadline: InThisProcess(left[0]))
    recipe, folder = write_recipe(tmp_path / "tiny"), tmp_path / "study"
    arguments = ["dimension", str(recipe), "--no-tune", "--resolution", "4", "--start", "16", "--out", str(folder)]
    arguments += ["--target", "0.8"]
    late = igc(arguments, capsys, monkeypatch)
    assert (late.code, "time is up" in late.err) == (0, True)
    left[0] = 99
    outcome = igc(arguments, capsys, monkeypatch)
    assert outcome.code == 0
    study = json.loads((folder / "dimension.json").read_text())
    lines = {line["method"]: line for line in read(folder)}
    full = lines["fedsgd"]["metric"]
    assert study["bar"] == pytest.approx(0.8 * full)
    for point in study["points"]:
        assert point["metric"] == lines[f"static+method.dim={point['d']}"]["metric"]
        assert point["reached"] == (point["metric"] >= study["bar"] - 1e-12)
    reached = [point["d"] for point in study["points"] if point["reached"]]
    assert study["d"] == min(reached)
    assert f"d = {study['d']} reaches 80% of the uncompressed accuracy" in outcome.out
    assert (folder / "dimension.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "dimension.svg").stat().st_size > 1000
    again = igc(arguments, capsys, monkeypatch)
    assert again.out == outcome.out
    wrong = igc([*arguments, "--resolution", "1"], capsys, monkeypatch)
    assert (wrong.code, "must be above 1" in wrong.err) == (2, True)


def test_what_the_folder_has_of_fewer_rounds_is_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igc.experiments.compare.execute.Executor", lambda threads, deadline: InThisProcess())
    recipe, folder = write_recipe(tmp_path / "tiny"), tmp_path / "study"
    arguments = ["dimension", str(recipe), "--no-tune", "--resolution", "9", "--out", str(folder), "--target", "0.5"]
    for rounds in (2, 12):
        assert igc([*arguments, "--rounds", str(rounds)], capsys, monkeypatch).code == 0
        found = {line["method"]: line["metric"] for line in read(folder) if line["rounds"] == rounds}
        study = json.loads((folder / "dimension.json").read_text())
        assert study["bar"] == pytest.approx(0.5 * found["fedsgd"])
        assert {p["d"]: p["metric"] for p in study["points"]} == {
            p["d"]: found[f"static+method.dim={p['d']}"] for p in study["points"]
        }


def test_what_is_set_is_set_for_all_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "dimension",
        "movie-reviews",
        "--max-hours",
        "0",
        "--out",
        str(tmp_path),
        "--set",
        "federation.batch_size=3",
    ]
    assert igc(arguments, capsys, monkeypatch).code == 0
    [recipe] = [load(path) for path in tmp_path.glob("runs/*/*/recipe.toml")]
    assert (recipe.method.name, recipe.federation.batch_size) == ("fedsgd", 3)


def test_the_yardstick_is_uncompressed_whatever_codec_is_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igc.experiments.compare.execute.Executor", lambda threads, deadline: InThisProcess(2))
    recipe = write_recipe(tmp_path / "tiny")
    arguments = [
        "dimension",
        str(recipe),
        "--no-tune",
        "--rounds",
        "2",
        "--start",
        "16",
        "--out",
        str(tmp_path / "out"),
    ]
    assert igc([*arguments, "--set", "codec.up=int8"], capsys, monkeypatch).code == 0
    runs = [load(path) for path in tmp_path.glob("out/runs/*/*/recipe.toml")]
    assert {run.method.name: run.codec.up for run in runs} == {"fedsgd": "float32", "static": "int8"}


def test_a_share_of_nothing_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["dimension", "shakespeare", "--target", "0", "--measure", "ratio", "--out", str(tmp_path / "study")]
    outcome = igc(arguments, capsys, monkeypatch)
    assert outcome.code == 2
    assert "a target of 0 of the 'ratio' of metrics is reached by whatever is trained" in outcome.err
    assert not (tmp_path / "study").exists()


def test_the_default_measure_is_held_to_that_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igc.experiments.compare.execute.Executor", lambda threads, deadline: InThisProcess(9))
    recipe = write_recipe(tmp_path / "tiny")
    outcome = igc(["dimension", str(recipe), "--target", "0", "--out", str(tmp_path / "study")], capsys, monkeypatch)
    assert (outcome.code, "a target of 0 of the 'ratio'" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    "setting",
    [
        *("method.name=k-subspace", "method.dim=8", "method.full=['*']", "method.budgets={'*.bias'=8}"),
        *("method.burn_in=4", "method={name='static',full=['*bias']}"),
    ],
)
def test_what_is_searched_for_cannot_be_set(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = igc(["dimension", "movie-reviews", "--set", setting, "--out", str(tmp_path / "s")], capsys, monkeypatch)
    assert outcome.code == 2
    assert f"--set {setting.partition('=')[0]}: the search says how many dimensions there are" in outcome.err
    assert not (tmp_path / "s").exists()


def test_a_target_that_is_no_number_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = igc(["dimension", "movie-reviews", "--target", "nan"], capsys, monkeypatch)
    assert (outcome.code, "must be from 0 to 1" in outcome.err) == (2, True)


@pytest.mark.parametrize("command", ["dimension", "compare", "tune"])
def test_hours_that_are_no_number_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [command, "movie-reviews", "--max-hours", "nan", "--out", str(tmp_path / "out")]
    outcome = igc([*arguments, *(["--bytes", "5MB"] if command == "tune" else [])], capsys, monkeypatch)
    assert (outcome.code, "--max-hours nan: give a number of hours" in outcome.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_gain_begins_where_seeds_begin_in_the_mean(tmp_path: Path) -> None:
    recipe = load("movie-reviews")
    for seed, initial in enumerate((0.6, 0.4)):
        run = tmp_path / f"run-{seed}"
        run.mkdir()
        (run / "recipe.toml").write_text(recipe.to_toml())
        (run / "summary.json").write_text(json.dumps({"rounds": 1, "initial_metric": initial, "D": 10}))
    line = {"metric": 0.7, "runs": ["run-0", "run-1"], "higher_is_better": True, "metric_name": "accuracy"}
    scale = _Scale.of(line, tmp_path, "gain")
    assert scale.metric(0.9) == pytest.approx(0.5 + 0.9 * 0.2)
    assert scale.quality(0.6) == pytest.approx(0.5)


def test_without_a_metric_to_begin_from_there_is_a_ratio_and_no_gain(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text(load("movie-reviews").to_toml())
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"rounds": 1, "initial_metric": None, "D": 10}))
    line = {"metric": 20.0, "runs": ["run"], "higher_is_better": False, "metric_name": "perplexity"}
    scale = _Scale.of(line, tmp_path, "ratio")
    assert scale.quality(40.0) == 0.5
    write_plot(tmp_path, scale.study("Tiny", 0.995, [Point(16, 40.0, 0.0, 0.5, False, 1.0, 100.0)]))
    assert "99.5% of uncompressed" in (tmp_path / "dimension.svg").read_text()
    with pytest.raises(RunError, match="theta_0 has no finite perplexity"):
        _Scale.of(line, tmp_path, None)


def test_an_uncompressed_metric_of_zero_is_nothing_to_take_a_share_of(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    recipe = load("movie-reviews")
    (run / "recipe.toml").write_text(recipe.to_toml())
    (run / "summary.json").write_text(json.dumps({"rounds": 1, "initial_metric": 0.0, "D": 10}))
    line = {"metric": 0.0, "runs": ["run"], "higher_is_better": True, "metric_name": "accuracy", "status": "done"}
    with pytest.raises(RunError, match="accuracy 0, of which nothing is a share"):
        _Scale.of(line, tmp_path, None)


@pytest.mark.parametrize("metrics", [(None,), (None, 0.8)])
def test_a_d_at_which_training_broke_down_is_drawn_without_a_metric(
    metrics: tuple[float | None, ...], tmp_path: Path
) -> None:
    points = tuple(Point(16 << i, metric, 0.0, metric, False, 1.0, 100.0) for i, metric in enumerate(metrics))
    write_plot(tmp_path, Study("Tiny", 0.9, "ratio", None, 16, 1.0, 0.5, 0.9, "accuracy", 100, points))
    assert (tmp_path / "dimension.png").read_bytes()[:4] == b"\x89PNG"
    assert "broke down" in (tmp_path / "dimension.svg").read_text()
