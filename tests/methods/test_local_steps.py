"""Local training against plain PyTorch: torch.optim on a copy of the model, no igc in the loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from igc.methods import KSubspace, LocalSteps, Static, fedsgd
from igc.optim import Adam, Sgd
from igc.projection import to_dense
from support.federation import METHODS, Federation
from support.toy import ToyTask

RATE = 0.05


def trained(
    start: Tensor, batches: Sequence[Sequence[Any]], optimizer: type[torch.optim.Optimizer], proximal: float
) -> Tensor:
    """Where torch.optim takes the model from ``start``, one step a batch."""
    model = ToyTask().model().double()
    nn.utils.vector_to_parameters(start.clone(), model.parameters())
    chosen = optimizer(model.parameters(), lr=RATE)  # type: ignore[call-arg]
    for batch in batches:
        chosen.zero_grad()
        loss, count = ToyTask().loss(model, [(x.double(), y.double()) for x, y in batch])
        distance = (nn.utils.parameters_to_vector(model.parameters()) - start).square().sum()
        torch.autograd.backward(loss / count + 0.5 * proximal * distance)
        chosen.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("proximal", [0.0, 3.0])
@pytest.mark.parametrize(("rule", "theirs"), [(Sgd(), torch.optim.SGD), (Adam(), torch.optim.Adam)])
def test_the_server_takes_the_mean_of_locally_trained_models(rule: Any, theirs: Any, proximal: float) -> None:
    f = Federation(lambda p, o: LocalSteps(fedsgd(p.D, o), RATE, 3, 2, rule, proximal), learning_rate=1.0)
    for number in range(4):
        start = f.position().double()
        clients = f.sampler.sample(number)
        workers = {client: f.workplace.worker(client, number).batches(2, 3) for client in clients}
        ends = [trained(start, [w.batch for w in workers[c]], theirs, proximal) for c in clients]
        weights = torch.tensor([float(len(f.clients[c])) for c in clients], dtype=torch.float64)
        f.run(1)
        mean = (torch.stack(ends) * weights[:, None]).sum(0) / weights.sum()
        torch.testing.assert_close(f.position().double(), mean, rtol=1e-4, atol=1e-5)


def test_each_epoch_goes_through_all_examples_in_another_order() -> None:
    f = Federation(METHODS["fedavg"])
    worker = f.workplace.worker("c1", 0)
    batches = [w.batch for w in worker.batches(2, 3)]
    assert [len(batch) for batch in batches] == [2, 2, 2, 1] * 3
    epochs = [batches[i : i + 4] for i in (0, 4, 8)]
    for epoch in epochs:
        assert sorted(id(x) for batch in epoch for x, _ in batch) == sorted(id(x) for x, _ in f.clients["c1"])
    assert len({tuple(id(x) for batch in epoch for x, _ in batch) for epoch in epochs}) > 1
    again = f.workplace.worker("c1", 0).batches(2, 3)
    assert [[id(x) for x, _ in w.batch] for w in again] == [[id(x) for x, _ in batch] for batch in batches]


ONE_STEP = [
    *("static", "time-varying", "k-subspace", "k-subspace-time-varying", "fedsgd"),
    *("local-top-k", "true-top-k", "random-k", "fetchsgd"),
]


@pytest.mark.parametrize("name", ONE_STEP)
def test_one_local_step_is_the_method_without(name: str) -> None:
    plain = Federation(METHODS[name], learning_rate=RATE)
    local = Federation(lambda p, o: LocalSteps(METHODS[name](p, o), RATE), learning_rate=1.0)
    for _ in range(5):
        a, b = plain.run(1)[0], local.run(1)[0]
        assert a.loss == pytest.approx(b.loss)
        assert (a.bytes_up, a.bytes_down) == (b.bytes_up, b.bytes_down)
        torch.testing.assert_close(plain.position(), local.position(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("proximal", [0.0, 0.5])
def test_inside_a_subspace_clients_descend_in_its_coordinates(proximal: float) -> None:
    """Sigma after local SGD is that of gradient descent on f(theta_0 + A sigma), A dense, by autograd.

    FedProx's pull is of the model, mu / 2 ||theta - theta_t||^2.
    """
    f = Federation(lambda p, o: LocalSteps(Static(p, o), RATE, 2, 2, Sgd(), proximal), per_round=1, learning_rate=1.0)
    A = to_dense(f.projection).double()
    sigma = torch.zeros(f.projection.d, dtype=torch.float64)
    for number in range(3):
        (client,) = f.sampler.sample(number)
        began = f.base.double() + A @ sigma
        for worker in f.workplace.worker(client, number).batches(2, 2):
            x = sigma.clone().requires_grad_()
            model = ToyTask().model().double()
            theta = f.base.double() + A @ x
            named = dict(zip([n for n, _ in model.named_parameters()], _split(theta, model), strict=True))
            inputs = torch.stack([x for x, _ in worker.batch]).double()
            targets = torch.stack([y for _, y in worker.batch]).double()
            out = torch.func.functional_call(model, named, (inputs,)).squeeze(-1)
            ((out - targets).square().mean() + 0.5 * proximal * (theta - began).square().sum()).backward()
            assert x.grad is not None
            sigma = sigma - RATE * x.grad
        f.run(1)
        torch.testing.assert_close(f.server.state.sigma.double(), sigma, rtol=1e-4, atol=1e-6)


def _split(theta: Tensor, model: nn.Module) -> list[Tensor]:
    parameters = list(model.parameters())
    pieces = torch.split(theta, [p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def test_a_client_of_k_subspace_moves_in_its_own_subspace_only() -> None:
    f = Federation(lambda p, o: LocalSteps(KSubspace(p, o, 3), RATE, 2), per_round=1, learning_rate=1.0)
    before = f.server.state.sigma
    f.run(1)
    moved = (f.server.state.sigma - before).abs().sum(1) > 0
    assert moved.tolist() == [True, False, False]
