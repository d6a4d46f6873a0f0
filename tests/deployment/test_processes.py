"""Federations of real processes on loopback, some of which are killed: ``pytest -m slow tests/deployment``."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from igc.deployment.status import read_status
from igc.experiments import checkpoint
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from support.flower import Deployment, children, end, kill, text, wait_until
from support.tiny import write_recipe

pytestmark = pytest.mark.slow


class Quiet:
    """An observer that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = write_recipe(
        tmp_path_factory.mktemp("tiny"),
        method={"name": "time-varying", "dim": 32, "rounds_per_epoch": 1},
        federation={"rounds": 3, "clients_per_round": 6, "batch_size": 4, "fused": False},
        data={"clients": 6, "partition": "iid", "options": {"test": 20, "validation": 0}},
        evaluation={"every": 3},
        checkpoint={"every": 1},
    )
    return load(path)


@pytest.fixture(scope="module")
def here(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that no message left this process for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("here")
    Run.create(recipe, folder).train(Quiet())
    torch.set_num_threads(before)
    return folder


def final(folder: Path) -> tuple[Any, Any]:
    _, tree, _ = checkpoint.load_latest(folder / "checkpoints", pytest.fail)
    return tree["fields"]["state"], tree["fields"]["accounts"]  # tensors by the digest of their content


def longer(recipe: Recipe, rounds: int) -> Recipe:
    return recipe.model_copy(update={"federation": recipe.federation.model_copy(update={"rounds": rounds})})


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_supernodes_give_the_same_state_and_bytes(recipe: Recipe, here: Path, tmp_path: Path) -> None:
    with Deployment(tmp_path, recipe) as federation:
        federation.superlink()
        federation.supernodes()
        federation.finish(federation.run())
        assert final(federation.run_folder) == final(here)
        assert (federation.run_folder / "ledger.jsonl").read_text() == (here / "ledger.jsonl").read_text()


def test_simulation_gives_the_same_state_and_bytes(recipe: Recipe, here: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with Deployment(tmp_path, recipe) as federation:
        path = federation.project / "igc_app" / "recipe.toml"
        run = federation.start(
            "igc", "igc", "train", str(path), "--engine", "flower-sim", "--out", str(tmp_path / "sim")
        )
        assert run.wait(240) == 0, text(run)
        assert final(tmp_path / "sim") == final(here)


def test_a_supernode_killed_in_a_round_comes_back(recipe: Recipe, tmp_path: Path) -> None:
    with Deployment(tmp_path, longer(recipe, 6), deadline=60.0) as federation:
        federation.superlink()
        first, second = federation.supernodes()
        run = federation.run()
        federation.wait_for_round(2)
        wait_until(lambda: bool(children(second, "flwr-clientapp")), 30, "no ClientApp at work")
        kill(second)
        federation.supernode("partition-id=1 num-partitions=2")
        federation.finish(run, 500)
        done = rounds(federation.run_folder)
        assert [line["round"] for line in done] == list(range(7))
        assert any(line["dropped"] == 3 for line in done)  # the round in which it died
        assert sum(line["rejected"] for line in done) == 3  # each of its clients said once that it had forgotten
        assert (done[-1]["dropped"], done[-1]["rejected"]) == (0, 0)
        assert first.poll() is None


def test_a_serverapp_killed_in_a_round_is_resumed(recipe: Recipe, here: Path, tmp_path: Path) -> None:
    with Deployment(tmp_path, recipe) as federation:
        link = federation.superlink()
        for i in range(2):
            memory = tmp_path / f"memory-{i}"
            federation.supernode(f'partition-id={i} num-partitions=2 memory="{memory}"')
        federation.run()
        federation.wait_for_round(1)
        for process in children(link, "flwr-serverapp"):
            os.kill(process, signal.SIGKILL)
        assert not federation.events("finished")
        federation.finish(federation.run())
        assert federation.events("start")[-1]["after_round"] in (1, 2)
        assert final(federation.run_folder) == final(here)  # as if nothing had happened, and nothing counted twice
        assert [line["round"] for line in rounds(federation.run_folder)] == [0, 1, 2, 3]


def test_a_straggler_past_the_deadline_is_left_out_and_takes_part_again(recipe: Recipe, tmp_path: Path) -> None:
    # Longer than a round takes on a busy machine, shorter than Flower takes to see that a node is gone.
    with Deployment(tmp_path, longer(recipe, 6), deadline=45.0) as federation:
        federation.superlink()
        _, slow = federation.supernodes()
        run = federation.run()
        federation.wait_for_round(1)
        end(slow, signal.SIGSTOP)
        wait_until(lambda: bool(federation.events("late")), 120, "nobody is late")
        end(slow, signal.SIGCONT)
        federation.finish(run, 500)
        done = rounds(federation.run_folder)
        dropped = [line["dropped"] for line in done]
        assert set(dropped) == {0, 3}
        assert (dropped[-1], sum(line["rejected"] for line in done)) == (0, 0)  # it remembers what it knew
        _, accounts = final(federation.run_folder)
        uploads = {name: account["fields"]["uploads"] for name, account in accounts["dict"].items()}
        assert sorted(uploads.values()) == [6 - dropped.count(3)] * 3 + [6] * 3  # what came late is counted nowhere


@pytest.mark.parametrize("with_database", [True, False])
def test_a_superlink_is_killed_and_started_anew(
    with_database: bool, recipe: Recipe, here: Path, tmp_path: Path
) -> None:
    with Deployment(tmp_path, recipe) as federation:
        database = ("--insecure", *(("--database", str(tmp_path / "flower.db")) if with_database else ()))
        link = federation.superlink(*database)
        configs = [f'partition-id={i} num-partitions=2 memory="{tmp_path / str(i)}"' for i in range(2)]
        nodes = [federation.supernode(config) for config in configs]
        federation.run()
        federation.wait_for_round(1)
        kill(link)
        # The run in progress ends with it.
        wait_until(lambda: read_status(federation.run_folder).state.startswith("stopped"), 30, "who is it that trains?")
        before = {event["node"] for event in federation.events("node-joined")}
        federation.superlink(*database)
        if not with_database:  # it knows nobody, and SuperNodes that knew it try in vain
            for node, config in zip(nodes, configs, strict=True):
                kill(node)
                federation.supernode(config)
        federation.finish(federation.run(), 400)
        after = {event["node"] for event in federation.events("node-joined")[2:]}
        assert (before == after) == with_database, (before, after)
        assert len(after) == 2
        assert federation.events("start")[-1]["after_round"] in (1, 2)
        assert final(federation.run_folder) == final(here)
