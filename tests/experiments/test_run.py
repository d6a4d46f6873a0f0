"""A run's end, where somebody changed its recipe on the way; and a run that never began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igc.errors import IgcError
from igc.experiments import metrics
from igc.experiments.compare.one import Silent
from igc.experiments.progress import RoundRecord
from igc.experiments.recipe import load
from igc.experiments.run import Run
from support.tiny import write_recipe


class Impatient(Silent):
    """Presses Ctrl-C after so many rounds."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def round(self, record: RoundRecord) -> None:
        if record.round == self._rounds:
            raise KeyboardInterrupt


def change(folder: Path, before: str, after: str) -> None:
    recipe = folder / "recipe.toml"
    text = recipe.read_text()
    assert text.count(before) == 1
    recipe.write_text(text.replace(before, after))


def test_a_run_that_is_ended_where_it_stands_is_evaluated_there(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny", federation={"rounds": 6}, evaluation={"every": 2})
    with pytest.raises(KeyboardInterrupt):
        Run.create(load(recipe), tmp_path / "run").train(Impatient(3))
    assert "metric" not in metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]
    change(tmp_path / "run", "rounds = 6", "rounds = 3")
    ended = Run.open(tmp_path / "run").train(Silent())
    same: dict[str, Any] = Run.create(load(recipe, ["federation.rounds=3"]), tmp_path / "same").train(Silent())
    assert ended["rounds"] == 3
    for key in ("final_metric", "final_metrics", "best_metric", "best_round", "initial_metric"):
        assert ended[key] == same[key]
    ends = [metrics.read(tmp_path / name / "metrics.jsonl")[-1] for name in ("run", "same")]
    assert [end["metrics"] for end in ends] == [same["final_metrics"]] * 2


def test_headline_values_are_of_one_split(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny", federation={"rounds": 2}, evaluation={"every": 1, "splits": ["test"]})
    Run.create(load(recipe), tmp_path / "run").train(Silent())
    change(tmp_path / "run", '"test"', '"validation"')
    change(tmp_path / "run", "rounds = 2", "rounds = 3")
    summary = Run.open(tmp_path / "run").train(Silent())
    last = summary["final_metrics"]["validation"]["accuracy"]
    assert (summary["split"], summary["initial_metric"]) == ("validation", None)
    assert (summary["final_metric"], summary["best_metric"], summary["best_round"]) == (last, last, 3)


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_cannot_begin_leaves_its_folder_as_it_was(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
    recipe = load(write_recipe(tmp_path / "tiny"), ["method.dim=100000000"])
    with pytest.raises(IgcError):
        Run.create(recipe, folder).train(Silent())
    assert folder.exists() == there
    assert not there or not list(folder.iterdir())
