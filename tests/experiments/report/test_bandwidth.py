"""Predictions of messages' bytes that the paper's table has no formula for, beside what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igc.codecs import CODECS
from igc.experiments.compare.one import Silent
from igc.experiments.recipe import load
from igc.experiments.report.bandwidth import Cost, costs
from igc.experiments.report.read import read
from igc.experiments.run import Run
from support.tiny import write_recipe

_CODED = {"up": "eden-1", "down": "eden-4"}
_HEADERS = 200  # bytes of a message that are no numbers, at most


def cost(folder: Path, **sections: Any) -> tuple[Cost, int]:
    """The row of a run, and the numbers in its messages."""
    recipe = write_recipe(folder / "tiny", **{"federation": {"rounds": 4}, "evaluation": {"every": 4}, **sections})
    Run.create(load(recipe), folder / "run").train(Silent())
    (group,) = read([folder / "run"])
    (row,) = costs(group.entries)
    return row, Run.open(folder / "run").summary["d"]


@pytest.mark.parametrize("codecs", [{}, _CODED])
def test_groups_and_a_codec(codecs: dict[str, str], tmp_path: Path) -> None:
    row, d = cost(tmp_path, method={"dim": 64, "full_below": 40, "budgets": {"*attention*": 512}}, codec=codecs)
    assert d > 64 + 512
    for way, codec in ((row.up, codecs.get("up", "float32")), (row.down, codecs.get("down", "float32"))):
        assert way.predicted == CODECS[codec].length((d,))
        assert way.measured is not None
        assert way.predicted < way.measured < way.predicted + _HEADERS


def test_a_burn_in_and_a_codec(tmp_path: Path) -> None:
    """Its few rounds in the wide subspace are on top of what is predicted."""
    row, d = cost(tmp_path, method={"dim": 512, "burn_in": 2, "burn_in_dim": 600, "learned": 2}, codec=_CODED)
    assert row.up.predicted == CODECS["eden-1"].length((d,))
    assert row.down.predicted is not None
    for way in (row.up, row.down):
        assert way.excess is not None
        assert 0 < way.excess < 3


def test_how_many_subspaces_a_plateau_saw_no_recipe_says(tmp_path: Path) -> None:
    changes = {"name": "time-varying", "dim": 8, "rounds_per_epoch": 2}
    by_rounds, _ = cost(tmp_path / "rounds", method=changes)
    assert by_rounds.dimensions == 8 * 2
    on_plateau, _ = cost(tmp_path / "plateau", method={"name": "time-varying", "dim": 8, "change": "plateau"})
    assert on_plateau.dimensions is None


def test_of_indices_a_codec_says_nothing(tmp_path: Path) -> None:
    recipe = load(
        write_recipe(tmp_path / "tiny", federation={"rounds": 1}, codec={"up": "int8"}), ["method.name=local-top-k"]
    )
    Run.create(recipe, tmp_path / "run").train(Silent())
    (group,) = read([tmp_path / "run"])
    (row,) = costs(group.entries)
    assert row.up.predicted is None
    assert row.up.measured is not None
