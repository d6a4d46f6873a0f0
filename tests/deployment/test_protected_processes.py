"""Secure aggregation over real SuperNodes, each stage a process of its own: ``pytest -m slow tests/deployment``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from igc.deployment.flower.client_app import client_app
from igc.deployment.flower.server_app import train
from igc.deployment.flower.settings import RunSettings
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from support.flower import Deployment
from support.grid import FakeGrid, identify
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


# Imported by every Python of one SuperNode: it goes silent once it has shared its keys, while it should send its upload.
SILENT = """
import os, time
from pathlib import Path

import igc.deployment.flower.client_app as app

honest = app.answer

def answer(clients, order, memories):
    answers = honest(clients, order, memories)
    with Path(os.environ["STAGES"]).open("a") as stages:
        stages.write(".")
    if Path(os.environ["STAGES"]).stat().st_size >= 3:
        time.sleep(3600)
    return answers

app.answer = answer
"""


def test_the_others_bring_back_the_sum_when_a_client_goes_after_sharing_its_keys(tmp_path: Path) -> None:
    plain = recipe(tmp_path / "plain")
    grid = FakeGrid()
    for number in range(4):
        app = client_app(plain)
        node = grid.add(100 + number, app, {"partition-id": number, "num-partitions": 4}, {"threads": 1})
        if number == 3:
            node.behave = lambda message, reply: reply if message.metadata.message_type == "query" else None
    identify()
    settings = RunSettings(deadline=1, patience=1, threads=1)
    train(Run.create(plain, tmp_path / "here"), grid, settings, Quiet(), lambda event, **facts: None, 0.01)
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent" / "sitecustomize.py").write_text(SILENT)
    variables = {"PYTHONPATH": str(tmp_path / "silent"), "STAGES": str(tmp_path / "stages")}
    secure = recipe(tmp_path / "secure", secure={"max_weight": 4, "threshold": 0.6})
    with Deployment(tmp_path / "there", secure, deadline=90.0) as federation:
        federation.superlink()
        federation.supernode('clients="client-0,client-1,client-2"')
        federation.supernode('clients="client-3"', environment=variables)
        federation.finish(federation.run(), 500)
        (late,) = federation.events("late")
        assert late["clients"] == ["client-3"]
        (done,) = [json.loads(line) for line in (federation.run_folder / "metrics.jsonl").read_text().splitlines()][1:]
        assert (done["dropped"], done["rejected"], done.get("skipped", False)) == (1, 0, False)
        assert sigma(tmp_path / "here").any()
        torch.testing.assert_close(sigma(federation.run_folder), sigma(tmp_path / "here"), atol=1e-5, rtol=0)
