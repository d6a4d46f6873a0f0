"""When a subspace changes, and what changes with it: plateaus, moments, learning rates, and the bytes of catching up."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from igc.federation import Server
from igc.messages import Kind, decode
from igc.methods import KSubspace, Means, Plateau, Static, TimeVarying
from igc.optim import Adam, Carry, Schedule, Sgd
from igc.records import from_tree, to_tree
from support.federation import Federation


def on_plateau(patience: int, threshold: float, most: int | None = None) -> Any:
    return lambda p, o: TimeVarying(Static(p, o), most, Plateau(patience, threshold))


def epochs_begun(f: Federation, rounds: int) -> list[int]:
    """The first round of every epoch, as the downloads of ``rounds`` rounds show it."""
    f.run(rounds)
    begun: dict[int, int] = {}
    for number, _, payload in f.engine.down:
        begun.setdefault(int(decode(payload, f.agreement, Kind.DOWNLOAD)["epoch"]), number)
    return list(begun.values())


@given(
    losses=st.lists(st.floats(0.1, 10), min_size=1, max_size=40),
    patience=st.integers(1, 6),
    threshold=st.floats(0, 0.5),
    most=st.none() | st.integers(1, 12),
)
def test_epochs_end_where_two_means_say_so_or_the_rounds_are_used_up(
    losses: list[float], patience: int, threshold: float, most: int | None
) -> None:
    f = Federation(on_plateau(patience, threshold, most))
    method, state = f.method, f.method.init()
    begin = 0
    for number, loss in enumerate(losses):
        state = method.update(state, Means({0: torch.ones(8)}, loss, ("c0",)), number, 0.1)
        since = losses[begin : number + 1]
        after, before = since[-patience:], since[-2 * patience : -patience]
        flat = len(since) >= 2 * patience and fmean(before) - fmean(after) < threshold * fmean(before)
        if flat or len(since) == most:
            begin = number + 1
        assert method.began(state) == begin
        assert len(state.losses) <= 2 * patience


def test_falling_losses_keep_a_subspace_and_flat_ones_change_it() -> None:
    rule = Plateau(patience=3, threshold=0.05)
    assert not rule.reached([0.9**i for i in range(30)])
    assert rule.reached([1.0] * 6)
    assert not rule.reached([1.0] * 5)
    assert rule.reached([1, 2, 3, 4, 5, 6])  # it rises
    assert rule.reached([-1.0] * 6)  # losses may be negative
    assert not rule.reached([-1.0, -1.1, -1.2, -1.5, -2.0, -3.0])


def test_rounds_without_uploads_say_nothing_about_the_loss_but_use_up_rounds() -> None:
    f = Federation(on_plateau(1, 0.5, most=4))
    state = f.method.update(f.method.init(), Means({0: torch.ones(8)}, 1.0, ("c0",)), 0, 0.1)
    for number in (1, 2):
        state = f.method.update(state, None, number, 0.1)
        assert (f.method.began(state), state.losses) == (0, (1.0,))
    assert f.method.began(f.method.update(state, None, 3, 0.1)) == 4


def test_a_plateau_that_is_never_reached_is_the_static_method() -> None:
    plain, patient = Federation(Static), Federation(on_plateau(50, 0.0))
    plain.run(6), patient.run(6)
    assert torch.equal(plain.position(), patient.position())


@pytest.mark.parametrize("inner", ["static", "k-subspace"])
def test_catching_up_is_right_whenever_subspaces_change(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients stand where the server does, and get each final that they lack once, however long epochs are."""

    def make(p: Any, o: Any) -> Any:
        within: Any = Static(p, o) if inner == "static" else KSubspace(p, o, 2)
        return TimeVarying(within, 5, Plateau(1, 0.2))

    f = Federation(make, sampling="uniform", per_round=2, dropout=0.3, d=12)
    seen: list[Tensor] = []
    original = type(f.workplace.worker(next(iter(f.clients)), 0)).sketch

    def spy(worker: Any, projection: Any) -> Any:
        seen.append(f.theta())
        return original(worker, projection)

    monkeypatch.setattr("igc.federation.worker.ClientWorker.sketch", spy)
    known: dict[str, int] = {}
    lengths, size = set(), 12 * (1 if inner == "static" else 2)
    for _ in range(40):
        expected, began = f.position(), f.method.began(f.server.state)
        epoch = len(f.server.state.finals)
        seen.clear()
        f.engine.down.clear()
        f.engine.up.clear()
        f.run(1)
        assert all(torch.equal(theta, expected) for theta in seen)
        for _, client, payload in f.engine.down:
            message = decode(payload, f.agreement, Kind.DOWNLOAD)
            lacking = (epoch - known.get(client, 0)) * size
            finals = message["finals"].numel() if "finals" in message else 0
            assert finals == (lacking if lacking <= f.space.D else 0)
            assert ("displacement" in message) == (lacking > f.space.D)
        known |= {client: epoch for _, client, _ in f.engine.up}
        lengths.add(f.method.began(f.server.state) - began)
    assert len(lengths - {0}) > 2  # epochs were of several lengths


def test_a_resumed_server_changes_where_a_straight_one_does() -> None:
    straight, first, again = (Federation(on_plateau(2, 0.1)) for _ in range(3))
    expected = epochs_begun(straight, 30)
    assert 3 < len(expected)
    first.run(13)
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(to_tree({"state": first.server.state, "memories": first.engine.inner.memories}, tensors))
    found = from_tree(json.loads(tree), tensors)
    again.server.state, again.engine.inner.memories, again.server.round = found["state"], found["memories"], 13
    again.run(17)
    assert again.method.began(again.server.state) == straight.method.began(straight.server.state)
    assert torch.equal(again.position(), straight.position())


@pytest.mark.parametrize("carry", ["reset", "carry-scale", "carry-over"])
def test_moments_at_a_change_are_those_that_were_asked_for(carry: Carry) -> None:
    f = Federation(lambda p, o: TimeVarying(Static(p, o), 3, carry=carry), optimizer=Adam())
    f.run(2)
    before = f.server.state.inner.optimizer
    result = f.run(1)[0]
    moments = f.server.state.inner.optimizer
    assert f.method.began(f.server.state) == 3
    assert torch.equal(f.server.state.inner.sigma, torch.zeros(8))
    assert result.loss is not None
    if carry == "reset":
        assert (moments.steps, float(moments.first.abs().sum()), float(moments.second.sum())) == (0, 0, 0)
    else:
        assert moments.steps == before.steps + 1
        assert float(moments.second.sum()) > 0
        assert bool(moments.first.any()) == (carry == "carry-over")


def test_restarts_at_a_change_are_restarts_every_so_many_rounds_where_these_are_fixed() -> None:
    def rates(f: Federation, schedule: Schedule, *, from_change: bool) -> list[float]:
        f.server = Server(f.method, f.agreement, f.sampler, schedule, from_change=from_change)
        return [result.learning_rate for result in f.run(11)]

    def make(p: Any, o: Any) -> Any:
        return TimeVarying(Static(p, o), 4)

    at_change = rates(Federation(make), Schedule(1.0, 4, "cosine", 1), from_change=True)
    every_four = rates(Federation(make), Schedule(1.0, 4, "cosine", 1, restarts=True), from_change=False)
    assert at_change == every_four
    assert at_change[:4] == at_change[4:8]
    assert len(set(at_change[:4])) > 2


def test_restarts_follow_a_plateau() -> None:
    f = Federation(on_plateau(2, 0.1), optimizer=Sgd())
    f.server = Server(f.method, f.agreement, f.sampler, lambda since: 0.01 * (since + 1), from_change=True)
    f.run(1)
    for _ in range(25):
        since = f.server.round - f.method.began(f.server.state)
        assert f.run(1)[0].learning_rate == 0.01 * (since + 1)
    assert len(f.server.state.finals) > 2
