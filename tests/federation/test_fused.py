"""The fused engine against client by client: same means, same bytes, same reactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from igc.federation import Fused
from igc.federation.worker import ClientWorker
from support.federation import LINEAR, METHODS, Federation

ROUNDS = 6


def pair(name: str, **settings: Any) -> tuple[Federation, Federation]:
    """The same federation, client by client and fused."""
    single, fused = Federation(METHODS[name], **settings), Federation(METHODS[name], **settings)
    fused.engine.inner = Fused(fused.engine.inner, fused.workplace)  # type: ignore[assignment]
    return single, fused


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize(("batch", "d"), [(None, 8), (3, 8), (3, 50)])  # the last catches up by displacement, too
def test_rounds_are_the_same_to_rounding_and_cost_the_same_bytes(name: str, batch: int | None, d: int) -> None:
    single, fused = pair(name, sampling="uniform", dropout=0.25, per_round=5, batch=batch, d=d)
    for _ in range(ROUNDS):
        a, b = single.run(1)[0], fused.run(1)[0]
        assert (a.bytes_up, a.bytes_down, a.clients, a.dropped) == (b.bytes_up, b.bytes_down, b.clients, b.dropped)
        assert a.traffic == b.traffic
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        torch.testing.assert_close(fused.position(), single.position(), rtol=1e-4, atol=1e-6)
    assert single.server.ledger.accounts == fused.server.ledger.accounts


@pytest.mark.parametrize(("name", "expected"), [("static", 1), ("k-subspace", 3), ("fedsgd", 1)])
def test_each_subspace_is_computed_once_a_round(name: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fused = pair(name, per_round=6)
    calls: list[ClientWorker] = []
    original: Callable[..., Any] = ClientWorker.sketch

    def spy(worker: ClientWorker, projection: Any) -> Any:
        calls.append(worker)
        return original(worker, projection)

    monkeypatch.setattr(ClientWorker, "sketch", spy)
    fused.run(1)
    assert len(calls) == expected
    assert sum(len(worker.batch) for worker in calls) == sum(len(fused.clients[c]) for c in fused.sampler.sample(0))


def poisoned(clients: dict[str, Sequence[Any]], name: str) -> dict[str, Sequence[Any]]:
    x, _ = clients[name][0]
    return {**clients, name: [(x, torch.tensor(torch.nan)), *clients[name][1:]]}


def test_a_loss_that_is_not_finite_is_traced_to_its_client() -> None:
    base = Federation(METHODS["static"])
    victim = base.sampler.sample(0)[2]
    single, fused = pair("static", clients=poisoned(base.clients, victim), non_finite="skip")
    a, b = single.run(1)[0], fused.run(1)[0]
    assert a.rejected.keys() == b.rejected.keys() == {victim}
    assert a.rejected == b.rejected
    assert torch.equal(single.position(), fused.position())


def test_a_wiped_client_is_answered_as_client_by_client() -> None:
    single, fused = pair("time-varying", sampling="uniform", per_round=7)
    for f in (single, fused):
        f.run(6)
        f.engine.inner.memories.pop("c0")
    assert single.run(1)[0].rejected == fused.run(1)[0].rejected == {"c0": "missed"}
    assert single.run(1)[0].rejected == fused.run(1)[0].rejected == {}
