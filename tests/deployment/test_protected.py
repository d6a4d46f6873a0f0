"""Secure aggregation and bounds over Flower's messages: the same protocol, the same sums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from igc.deployment.flower.client_app import client_app
from igc.deployment.flower.server_app import train
from igc.deployment.flower.settings import RunSettings
from igc.errors import TrainingError
from igc.experiments.progress import RoundRecord, RunInfo
from igc.experiments.recipe import load
from igc.experiments.run import Run
from support.grid import FakeGrid, identify
from support.tiny import write_recipe

FAST = RunSettings(deadline=0.2, patience=0.2)


class Silent:
    """An observer that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def start(self, info: RunInfo) -> None: ...

    def round(self, record: RoundRecord) -> None: ...

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def finish(self) -> None: ...


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    identify()
    yield
    torch.set_num_threads(before)


def recipe(folder: Path, weights: str = "examples", **sections: Any) -> Path:
    return write_recipe(
        folder,
        method={"name": "time-varying", "dim": 32, "rounds_per_epoch": 2},
        federation={"rounds": 3, "clients_per_round": 6, "batch_size": 4, "weights": weights},
        data={"clients": 6, "partition": "iid", "options": {"test": 20, "validation": 0}},
        optimizer={"name": "adam", "learning_rate": 0.02, "epsilon": 1.0},  # small differences stay small
        aggregation={"norm_bound": 50.0, "max_weight": 4} if not sections else {"norm_bound": 50.0},
        evaluation={"every": 3},
        **sections,
    )


def on_flower(path: Path, folder: Path, *, silent_node: int | None = None) -> tuple[dict[str, Any], Silent]:
    grid = FakeGrid()
    for number in range(3):
        node = grid.add(100 + number, client_app(path), {"partition-id": number, "num-partitions": 3}, {})
        if number == silent_node:
            seen: list[Message] = []

            def quiet(message: Message, reply: Message, seen: list[Message] = seen) -> Message | None:
                seen.append(message)
                return reply if len(seen) <= 3 else None  # the roll call, keys, shares; then nothing any more

            node.behave = quiet
    observer = Silent()
    summary = train(Run.create(load(path), folder), grid, FAST, observer, lambda event, **facts: None, 0.01)
    return summary, observer


def sigma(folder: Path) -> torch.Tensor:
    found: torch.Tensor = Run.open(folder).restore(print).server.state.inner.sigma
    return found


def test_a_secure_run_on_flower_is_the_plain_one_in_this_process(tmp_path: Path) -> None:
    plain = recipe(tmp_path / "plain")
    secure = recipe(tmp_path / "secure", secure={"max_weight": 4})
    Run.create(load(plain), tmp_path / "here").train(Silent())
    summary, observer = on_flower(secure, tmp_path / "there")
    assert not observer.warnings and summary["rounds"] == 3
    assert sigma(tmp_path / "here").any()
    torch.testing.assert_close(sigma(tmp_path / "there"), sigma(tmp_path / "here"), atol=1e-5, rtol=0)


def test_a_node_that_goes_half_way_is_made_good(tmp_path: Path) -> None:
    secure = recipe(tmp_path / "secure", secure={"max_weight": 4, "threshold": 0.6})
    summary, observer = on_flower(secure, tmp_path / "there", silent_node=1)
    assert summary["rounds"] == 3 and not any("skipped" in warning for warning in observer.warnings)
    assert sigma(tmp_path / "there").any()


def test_clients_with_another_bound_are_left_out(tmp_path: Path) -> None:
    server, client = recipe(tmp_path / "server"), recipe(tmp_path / "client", secure={"max_weight": 4})
    grid = FakeGrid()
    grid.add(100, client_app(client), {"partition-id": 0, "num-partitions": 1}, {})
    observer = Silent()
    with pytest.raises(TrainingError, match="no upload counted in 3 rounds in a row"):
        train(Run.create(load(server), tmp_path / "run"), grid, FAST, observer, lambda event, **facts: None, 0.01)
    assert len(observer.warnings) == 18
    assert "another method or other settings" in observer.warnings[0]


class Killer(Silent):
    """An observer that ends the server within a round, as a kill does: nothing is saved."""

    def round(self, record: RoundRecord) -> None:
        if record.round == 3:
            raise RuntimeError("killed")


@pytest.mark.parametrize("another_run", [False, True])
@pytest.mark.parametrize("local_noise", [False, True])
def test_a_server_that_was_killed_gets_no_second_answer_for_a_round_and_goes_on(
    tmp_path: Path, local_noise: bool, another_run: bool
) -> None:
    """Masks and noise are drawn anew each time: of two sums of a round, or two uploads, the server would learn too much."""
    if local_noise:
        sections: dict[str, Any] = {"privacy": {"where": "local", "noise_multiplier": 0.001, "delta": 1e-3}}
        path = recipe(tmp_path, weights="uniform", **sections)
    else:
        path = recipe(tmp_path, secure={"max_weight": 4})
    run = Run.create(load(path, ["federation.rounds=5", "checkpoint.every=2", "evaluation.every=5"]), tmp_path / "run")

    def grid() -> FakeGrid:
        """To Flower a resumed run is another one: contexts are empty, and folders are not."""
        made = FakeGrid()
        for number in range(3):
            config: dict[str, str | int] = {"partition-id": number, "num-partitions": 3}
            made.add(100 + number, client_app(path), {**config, "memory": str(tmp_path / f"node-{number}")}, {})
        return made

    with pytest.raises(RuntimeError, match="killed"):
        train(run, grid(), FAST, Killer(), lambda event, **facts: None, 0.01)
    if another_run:  # on the same nodes, with the same folders
        other = Run.create(load(path, ["federation.rounds=1", "evaluation.every=1"]), tmp_path / "other")
        train(other, grid(), FAST, Silent(), lambda event, **facts: None, 0.01)
    observer = Silent()
    summary = train(Run.open(run.folder), grid(), FAST, observer, lambda event, **facts: None, 0.01)
    assert summary["rounds"] == 5
    word = "answered" if local_noise else "sent a masked upload for"
    assert len([w for w in observer.warnings if w.startswith("round 3: left out") and f"has {word} round 3" in w]) == 6
    assert not [w for w in observer.warnings if w.startswith(("round 4", "round 5"))]
