"""Rehearsals cost what runs cost, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igc.experiments.assemble import assemble, load_data
from igc.experiments.compare.one import Silent
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from igc.experiments.tune.budget import Budget, Rehearsal, Scope
from igc.federation import Account
from support.tiny import write_recipe

SCOPES: tuple[Scope, ...] = ("total", "client")
FEDERATION = {"rounds": 7, "sampling": "uniform", "client_dropout": 0.2, "clients_per_round": 3, "batch_size": 6}
RECIPES: dict[str, dict[str, Any]] = {
    "static": {"codec": {"up": "lloyd-1", "down": "float16", "error_feedback": True}},
    "time-varying": {"method": {"name": "time-varying", "rounds_per_epoch": 2}},
    "k-subspace": {"method": {"name": "k-subspace", "subspaces": 2}, "codec": {"up": "int8"}},
    "calibrated": {"method": {"scale": "calibrated"}, "codec": {"up": "int8"}},
    "burn-in": {"method": {"burn_in": 3, "burn_in_dim": 80, "learned": 2}, "codec": {"up": "int8"}},
    "secure": {"secure": {"max_weight": 6}, "aggregation": {"norm_bound": 1.0}},
    "local": {"local": {"learning_rate": 0.01, "optimizer": "adam", "batch_size": 3}, "codec": {"down": "int8"}},
    "control variates": {
        "local": {"learning_rate": 0.01, "batch_size": 3, "control_variates": True},
        "federation": {**FEDERATION, "weights": "uniform"},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def rehearsal(folder: Path) -> Rehearsal:
    base = load(write_recipe(folder / "base"))
    return Rehearsal(assemble(base).space, tuple(load_data(base).clients))


def recipe_of(folder: Path, name: str) -> Recipe:
    changes = {"federation": FEDERATION, **RECIPES[name], "evaluation": {"every": 100, "max_examples": 5}}
    return load(write_recipe(folder / name, **changes))


@pytest.mark.parametrize("name", RECIPES)
def test_a_rehearsal_costs_what_the_run_costs(name: str, folder: Path, rehearsal: Rehearsal, tmp_path: Path) -> None:
    recipe = recipe_of(folder, name)
    Run.create(recipe, tmp_path / "run").train(Silent())
    for scope in SCOPES:
        budget = Budget(10**9, scope)
        plan = rehearsal.plan(recipe, budget, 7)
        assert plan.rounds == 7
        assert plan.bytes == budget.measured(tmp_path / "run") > 0
    summary = Run.open(tmp_path / "run").summary
    assert Budget(1).measured(tmp_path / "run") == summary["bytes_up"] + summary["bytes_down"]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["static", "time-varying"])
def test_rounds_are_as_many_as_the_budget_pays_for(name: str, scope: Scope, folder: Path, rehearsal: Rehearsal) -> None:
    recipe = recipe_of(folder, name)
    costs = [rehearsal.plan(recipe, Budget(10**9, scope), rounds).bytes for rounds in range(8)]
    assert costs == sorted(costs)
    for cost in {1, costs[1], costs[3] - 1, costs[3], costs[6] + 1}:
        plan = rehearsal.plan(recipe, Budget(cost, scope), 7)
        assert plan.rounds == max(rounds for rounds in range(8) if costs[rounds] <= cost)
        assert plan.bytes == costs[plan.rounds] <= cost


def test_of_clients_the_one_counts_that_has_most() -> None:
    accounts = {"a": Account(10, 1), "b": Account(4, 20), "c": Account()}
    assert Budget(1, "total").spent(accounts) == 35
    assert Budget(1, "client").spent(accounts) == 24
    assert Budget(1, "client").spent({}) == 0
