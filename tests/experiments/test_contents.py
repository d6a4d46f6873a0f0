"""What a folder holds, and that nothing takes over what is another's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from igc.experiments.compare import JSON as COMPARISON
from igc.experiments.compare import RUNS
from igc.experiments.compare.one import Silent
from igc.experiments.contents import CHECKPOINTS, Kind, kind_of
from igc.experiments.metrics import METRICS
from igc.experiments.recipe import RECIPE, load
from igc.experiments.run import Run
from igc.experiments.tune import JSON as TUNING
from igc.experiments.tune import STUDY
from support.command import igc
from support.tiny import write_recipe

FILES = {RECIPE, COMPARISON, STUDY, TUNING, METRICS}


def fill(folder: Path, names: set[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch() if name in FILES else (folder / name).mkdir()
    return folder


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (set(), None),
        ({RECIPE}, None),
        ({RUNS}, None),  # `igc train` makes one wherever it is called
        ({RECIPE, METRICS}, "run"),
        ({RECIPE, CHECKPOINTS}, "run"),
        ({RECIPE, METRICS, RUNS}, "run"),  # trained with --out .
        ({RECIPE, RUNS}, None),  # `igc show NAME > recipe.toml`, then `igc train recipe.toml`
        ({RECIPE, RUNS, COMPARISON}, "comparison"),
        ({RECIPE, RUNS, COMPARISON, METRICS}, "comparison"),  # into which a run was trained
        ({RECIPE, RUNS, STUDY}, "tuning"),
        ({RECIPE, RUNS, TUNING}, "tuning"),
    ],
)
def test_what_a_folder_holds(names: set[str], kind: Kind | None, tmp_path: Path) -> None:
    assert kind_of(fill(tmp_path / "folder", names)) == kind


def test_runs_of_methods_are_a_comparisons_before_its_first_line(tmp_path: Path) -> None:
    folder = fill(tmp_path / "folder", {RECIPE, RUNS})
    (folder / RUNS / "mine").mkdir()
    (folder / RUNS / "mine" / RECIPE).touch()  # a run of the recipe beside it
    assert kind_of(folder) is None
    (folder / RUNS / "static" / "seed-0").mkdir(parents=True)
    (folder / RUNS / "static" / "seed-0" / RECIPE).touch()
    assert kind_of(folder) == "comparison"


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "none") is None


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"), federation={"rounds": 2})


@pytest.fixture(scope="module")
def made(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, and what a comparison and a tuning of its very recipe leave; the last two without a line yet."""
    root = tmp_path_factory.mktemp("made")
    run = Run.create(load(recipe), root / "run")
    run.train(Silent())
    for kind, sign in (("comparison", COMPARISON), ("tuning", STUDY)):
        shutil.copytree(run.folder, root / kind / RUNS / "static" / "run")
        shutil.copy(run.folder / RECIPE, root / kind / RECIPE)
        (root / kind / sign).write_text("[]")
    return {name: root / name for name in ("run", "comparison", "tuning")}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


MAKERS = [
    (["tune", "RECIPE", "--bytes", "30000", "--trials", "1", "--max-hours", "0"], "tuning"),
    (["compare", "RECIPE", "--methods", "static", "--max-hours", "0"], "comparison"),
    (["dimension", "RECIPE", "--max-hours", "0"], "comparison"),
    (["train", "RECIPE"], "run"),
]


@pytest.mark.parametrize(
    ("kind", "command", "makes"),
    [(kind, *maker) for kind in ("run", "comparison", "tuning") for maker in MAKERS if maker[1] != kind],
)
def test_nothing_takes_over_the_folder_of_another(
    kind: str,
    command: list[str],
    makes: str,
    recipe: Path,
    made: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(made[kind])
    arguments = [str(recipe) if word == "RECIPE" else word for word in command]
    outcome = igc([*arguments, "--out", str(made[kind])], capsys, monkeypatch)
    assert outcome.code == 2
    assert f"holds a {kind}, and a {makes} has a folder of its own; choose another with --out" in outcome.err
    assert contents(made[kind]) == before


@pytest.mark.parametrize("kind", ["comparison", "tuning"])
@pytest.mark.parametrize("command", [["resume"], ["eval"], ["export"], ["federation", "status"]])
def test_many_runs_are_not_one(
    kind: str,
    command: list[str],
    made: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(made[kind])
    outcome = igc([*command, str(made[kind])], capsys, monkeypatch)
    assert outcome.code == 2
    assert f"holds a {kind}; its runs are in {made[kind] / RUNS}; `igc report {made[kind]}` shows it" in outcome.err
    assert contents(made[kind]) == before


def test_a_run_of_a_comparison_is_a_run(
    made: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert igc(["eval", str(made["comparison"] / RUNS / "static" / "run")], capsys, monkeypatch).code == 0


def test_a_comparison_or_a_tuning_with_a_fault_leaves_no_folder(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for a run that has yet to begin."""
    out = ["--out", str(tmp_path / "out")]
    assert igc(["compare", str(recipe), "--methods", "fedsgd+method.dim=3", *out], capsys, monkeypatch).code == 2
    assert not (tmp_path / "out").exists()
    assert igc(["tune", str(recipe), "--bytes", "900", *out], capsys, monkeypatch).code == 2
    assert not (tmp_path / "out").exists()
