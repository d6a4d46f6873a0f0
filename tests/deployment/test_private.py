"""Differential privacy over Flower's messages: it costs what it costs in this process, and stops the run as soon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from igc.deployment.events import EventLog, EventObserver
from igc.deployment.flower.client_app import client_app
from igc.deployment.flower.server_app import train
from igc.deployment.flower.settings import RunSettings
from igc.deployment.status import read_status
from igc.experiments import metrics
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from support.flower import Deployment
from support.grid import FakeGrid, identify
from support.tiny import write_recipe


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    identify()
    yield
    torch.set_num_threads(before)


class Quiet:
    """An observer that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def recipe(folder: Path, where: str, rounds: int = 40, budget: float | None = 3.0) -> Recipe:
    privacy = {"where": where, "noise_multiplier": 4.0, "delta": 1e-3, "seed": 3}
    path = write_recipe(
        folder,
        method={"name": "static", "dim": 32},
        federation={
            "rounds": rounds,
            "clients_per_round": 6,
            "batch_size": 4,
            "weights": "uniform",
            "sampling": "uniform",
        },
        data={"clients": 6, "partition": "iid", "options": {"test": 20, "validation": 0}},
        aggregation={"norm_bound": 5.0},
        privacy=privacy if budget is None else {**privacy, "epsilon": budget},
        evaluation={"every": rounds},
    )
    return load(path)


@pytest.mark.parametrize("where", ["central", "local"])
def test_epsilon_and_the_budget_are_those_of_a_run_in_this_process(where: str, tmp_path: Path) -> None:
    private = recipe(tmp_path, where)
    here = Run.create(private, tmp_path / "here").train(Quiet())
    grid = FakeGrid()
    for number in range(3):
        grid.add(100 + number, client_app(private), {"partition-id": number, "num-partitions": 3}, {})
    log = EventLog(stream=None)
    run = Run.create(private, tmp_path / "there")
    log.write_to(run.folder)
    settings = RunSettings(deadline=0.5, patience=0.5)
    there = train(run, grid, settings, EventObserver(log.tell), log.tell, 0.001)
    assert 1 < there["rounds"] < 40
    assert there["rounds"] == here["rounds"]
    spent, other = (epsilons(tmp_path / side) for side in ("here", "there"))
    assert spent == other
    assert spent[-1] <= 3.0
    status = read_status(run.folder)
    assert status.epsilon == spent[-1]
    assert any("privacy budget: stopped" in event.get("text", "") for event in status.trouble)
    states = [Run.open(tmp_path / side).restore(print).server.state.sigma for side in ("here", "there")]
    assert states[0].any()
    assert torch.equal(*states)  # noise and all


@pytest.mark.slow
def test_supernodes_stop_with_the_budget(tmp_path: Path) -> None:
    two = Run.create(recipe(tmp_path / "two", "central", rounds=2, budget=None), tmp_path / "here").train(Quiet())
    capped = recipe(tmp_path / "capped", "central", rounds=5, budget=two["epsilon"] * 1.0001)
    with Deployment(tmp_path / "there", capped) as federation:
        federation.superlink()
        federation.supernodes()
        federation.finish(federation.run(), 400)
        assert epsilons(federation.run_folder) == epsilons(tmp_path / "here")  # after two rounds of five
        states = [
            Run.open(folder).restore(print).server.state.sigma for folder in (federation.run_folder, tmp_path / "here")
        ]
        assert torch.equal(*states)


def epsilons(folder: Path) -> list[Any]:
    """Spent after each round, as the run's log has it."""
    return [line.get("epsilon") for line in metrics.read(folder / metrics.METRICS)]
