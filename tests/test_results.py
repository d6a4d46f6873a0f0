"""docs/results.md is held to docs/results/*.json, and benchmarks/grids.py to the recipes they name."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from igc.experiments.compare.entrants import entrants
from igc.experiments.compare.names import names
from igc.experiments.recipe import Recipe, load

ROOT = Path(__file__).parent.parent


def script(name: str) -> ModuleType:
    """A program of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


comparisons = script("comparisons")
GRIDS = sorted(comparisons.GRIDS)


def recipes(grid: str) -> dict[str, Recipe]:
    """Each entrant of a grid -> the recipe that it trains by."""
    plan = comparisons.GRIDS[grid]
    base = load(plan.recipe, [])
    chosen = entrants([name for group in plan.methods for name in names(group)], frozenset())
    changes = {"federation.rounds": plan.rounds}
    return {entrant.name: entrant.recipe(base, entrant.first_rate(base), changes) for entrant in chosen}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_table_is_its_json(grid: str) -> None:
    page = comparisons.PAGE.read_text(encoding="utf-8")
    (shown,) = re.findall(rf"(?s)<!-- {grid} -->\n(.*?)\n?<!-- end of {grid} -->", page)
    lines = comparisons.known(grid)
    assert lines, f"docs/results/{grid}.json is missing or empty"
    assert shown == "\n\n".join(comparisons.table(group) for group in comparisons.grouped(lines))


@pytest.mark.parametrize("grid", GRIDS)
def test_what_a_table_has_its_script_makes(grid: str) -> None:
    plan = comparisons.GRIDS[grid]
    entries = {name for group in plan.methods for name in names(group)}
    for line in comparisons.known(grid):
        assert line["method"] in entries
        assert plan.has(line)
        assert len(line["trials"]) <= plan.trials or plan.trials == 1


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_run_anew_is_the_recipe_that_was_reported(grid: str) -> None:
    plan = comparisons.GRIDS[grid]
    base = load(plan.recipe, [])
    for line in comparisons.known(grid):
        (as_named,) = entrants([line["method"]])
        (anew,) = entrants([comparisons.at_its_rate(line)])
        rate = line["learning_rate"] or as_named.first_rate(base)
        assert anew.recipe(base, anew.first_rate(base), {}) == as_named.recipe(base, rate, {})


@pytest.mark.parametrize("grid", GRIDS)
def test_every_entrant_of_a_grid_is_a_recipe(grid: str) -> None:
    assert recipes(grid)


@pytest.mark.parametrize("grid", GRIDS)
def test_what_a_table_calls_a_recipe_is_that_recipe(grid: str) -> None:
    for name, entrant in recipes(grid).items():
        if called := re.fullmatch(r"\*\*recipe `(.+)`\*\*", comparisons.CALLED.get(name, "")):
            shipped = load(called[1], [])
            assert entrant.method == shipped.method
            assert entrant.codec == shipped.codec
            assert entrant.local == shipped.local
            assert entrant.optimizer == shipped.optimizer
            assert entrant.space == shipped.space
