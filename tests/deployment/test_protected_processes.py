"""Secure aggregation over real SuperNodes, each stage a process of its own: ``pytest -m slow tests/deployment``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from support.flower import Deployment
from support.tiny import write_recipe

pytestmark = pytest.mark.slow


class Quiet:
    """An observer that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def recipe(folder: Path, **sections: Any) -> Recipe:
    path = write_recipe(
        folder,
        method={"name": "static", "dim": 32},
        federation={"rounds": 1, "clients_per_round": 4, "batch_size": 4, "fused": False},
        data={"clients": 4, "partition": "iid", "options": {"test": 20, "validation": 0}},
        optimizer={"name": "sgd", "learning_rate": 0.1},
        aggregation={"norm_bound": 50.0} if "secure" in sections else {"norm_bound": 50.0, "max_weight": 4},
        checkpoint={"every": 1},
        **sections,
    )
    return load(path)


def sigma(folder: Path) -> torch.Tensor:
    found: torch.Tensor = Run.open(folder).restore(print).server.state.sigma
    return found


def test_supernodes_give_the_sum_and_no_summand(tmp_path: Path) -> None:
    Run.create(recipe(tmp_path / "plain"), tmp_path / "here").train(Quiet())
    with Deployment(tmp_path / "there", recipe(tmp_path / "secure", secure={"max_weight": 4})) as federation:
        federation.superlink()
        federation.supernodes()
        federation.finish(federation.run(), 400)
        torch.testing.assert_close(sigma(federation.run_folder), sigma(tmp_path / "here"), atol=1e-5, rtol=0)
        assert sigma(tmp_path / "here").any()
        done = [json.loads(line) for line in (federation.run_folder / "metrics.jsonl").read_text().splitlines()]
        assert (done[-1]["dropped"], done[-1]["rejected"]) == (0, 0)
