"""Methods against trajectories computed another way: dense matrices, plain autograd, torch.optim, no igc in the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from igc.methods import KSubspace, Static, TimeVarying, fedsgd
from igc.optim import Adam, Sgd
from igc.projection import Projection, to_dense
from support.federation import METHODS, Federation, Maker
from support.toy import ToyTask

ROUNDS = 6
RATE = 0.05


def gradient(theta: Tensor, examples: Sequence[Any]) -> Tensor:
    """The gradient of the mean loss, by plain autograd, flat, in float64."""
    model = ToyTask().model().double()
    with torch.no_grad():
        nn.utils.vector_to_parameters(theta, model.parameters())
    x = torch.stack([example[0] for example in examples]).double()
    y = torch.stack([example[1] for example in examples]).double()
    loss, count = ToyTask().loss(model, list(zip(x, y, strict=True)))
    parts = torch.autograd.grad(loss / count, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts])


def mean_gradient(f: Federation, theta: Tensor, clients: Sequence[str]) -> Tensor:
    """Weighted by examples: the gradient of the union of the clients' data."""
    return gradient(theta, [example for client in clients for example in f.clients[client]])


def dense(projection: Projection) -> Tensor:
    return to_dense(projection).double()


def assert_same_path(f: Federation, step: Callable[[Tensor, int], Tensor], rounds: int = ROUNDS) -> None:
    theta = f.base.double()
    for number in range(rounds):
        theta = step(theta, number)
        f.run(1)
        torch.testing.assert_close(f.position().double(), theta, rtol=1e-4, atol=1e-5)
    assert (theta - f.base).norm() > 1e-2 * f.base.norm()  # it did go somewhere


def test_static_sgd_is_compressed_gradient_descent_on_theta() -> None:
    f = Federation(METHODS["static"], learning_rate=RATE)
    A = dense(f.projection)
    assert_same_path(f, lambda theta, r: theta - RATE * A @ (A.T @ mean_gradient(f, theta, f.sampler.sample(r))))


def test_fedsgd_is_gradient_descent_on_the_union_of_data() -> None:
    f = Federation(METHODS["fedsgd"], learning_rate=RATE)
    assert_same_path(f, lambda theta, r: theta - RATE * mean_gradient(f, theta, f.sampler.sample(r)))


def test_fedsgd_with_adam_is_torch_adam() -> None:
    f = Federation(lambda p, o: fedsgd(p.D, o), optimizer=Adam(), learning_rate=RATE)
    theta = nn.Parameter(f.base.double())
    adam = torch.optim.Adam([theta], lr=RATE)

    def step(_: Tensor, number: int) -> Tensor:
        theta.grad = mean_gradient(f, theta.detach(), f.sampler.sample(number))
        adam.step()
        return theta.detach().clone()

    assert_same_path(f, step)


def test_static_with_momentum_is_momentum_on_sigma() -> None:
    f = Federation(METHODS["static"], optimizer=Sgd(momentum=0.9), learning_rate=RATE)
    A = dense(f.projection)
    sigma = nn.Parameter(torch.zeros(f.projection.d, dtype=torch.float64))
    sgd = torch.optim.SGD([sigma], lr=RATE, momentum=0.9)

    def step(theta: Tensor, number: int) -> Tensor:
        sigma.grad = A.T @ mean_gradient(f, theta, f.sampler.sample(number))
        sgd.step()
        return f.base.double() + A @ sigma.detach()

    assert_same_path(f, step)


def test_time_varying_descends_through_the_matrix_of_each_epoch() -> None:
    f = Federation(METHODS["time-varying"], learning_rate=RATE)

    def step(theta: Tensor, number: int) -> Tensor:
        A = dense(f.projection.child(number // 2))
        return theta - RATE * A @ (A.T @ mean_gradient(f, theta, f.sampler.sample(number)))

    assert_same_path(f, step)


@pytest.mark.parametrize("name", ["k-subspace", "k-subspace-time-varying"])
def test_k_subspace_moves_each_subspace_by_its_own_clients_over_the_whole_round(name: str) -> None:
    f = Federation(METHODS[name], learning_rate=RATE)
    K = 3 if name == "k-subspace" else 2

    def step(theta: Tensor, number: int) -> Tensor:
        clients = f.sampler.sample(number)
        turns = sum(len(f.sampler.sample(earlier)) for earlier in range(number))
        epoch = 0 if name == "k-subspace" else number // 2
        weight = sum(len(f.clients[client]) for client in clients)
        moved = theta.clone()
        for position, client in enumerate(clients):
            k = (turns + position) % K
            A = dense(f.projection.child(epoch).child(0, k))
            share = len(f.clients[client]) / weight
            moved -= RATE * share * A @ (A.T @ gradient(theta, f.clients[client]))
        return moved

    assert_same_path(f, step)


def test_uniform_weights_count_each_client_once() -> None:
    f = Federation(METHODS["fedsgd"], learning_rate=RATE, weights="uniform")

    def step(theta: Tensor, number: int) -> Tensor:
        parts = [gradient(theta, f.clients[client]) for client in f.sampler.sample(number)]
        return theta - RATE * torch.stack(parts).mean(0)

    assert_same_path(f, step)


def test_clipping_bounds_each_client_in_the_full_space() -> None:
    clip = 0.05
    f = Federation(METHODS["static"], learning_rate=RATE, clip_norm=clip)
    A = dense(f.projection)

    def step(theta: Tensor, number: int) -> Tensor:
        total, weight = torch.zeros_like(theta), 0
        for client in f.sampler.sample(number):
            g = gradient(theta, f.clients[client])
            total += len(f.clients[client]) * g * min(1.0, clip / float(g.norm()))
            weight += len(f.clients[client])
        return theta - RATE * A @ (A.T @ total / weight)

    theta = f.base.double()
    for number in range(ROUNDS):
        theta = step(theta, number)
    f.run(ROUNDS)
    torch.testing.assert_close(f.position().double(), theta, rtol=1e-4, atol=1e-5)


EQUAL_TO_STATIC: dict[str, Maker] = {
    "time-varying with one epoch": lambda p, o: TimeVarying(Static(p, o), rounds_per_epoch=10**6),
    "k-subspace with K = 1": lambda p, o: KSubspace(p, o, subspaces=1),
    "both": lambda p, o: TimeVarying(KSubspace(p, o, subspaces=1), rounds_per_epoch=10**6),
}


@pytest.mark.parametrize("optimizer", [Sgd(momentum=0.5), Adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", EQUAL_TO_STATIC)
def test_degenerate_cases_equal_static_bit_for_bit(name: str, optimizer: Any) -> None:
    static = Federation(METHODS["static"], optimizer=optimizer)
    other = Federation(EQUAL_TO_STATIC[name], optimizer=optimizer)
    for _ in range(ROUNDS):
        a, b = static.run(1)[0], other.run(1)[0]
        assert a.loss == b.loss
        assert torch.equal(static.position(), other.position())
        assert torch.equal(static.method.terms(static.server.state)[0][0].sigma, _sigma(other))


def test_time_varying_at_the_end_of_its_only_epoch_still_stands_where_static_does() -> None:
    static = Federation(METHODS["static"])
    other = Federation(lambda p, o: TimeVarying(Static(p, o), rounds_per_epoch=ROUNDS))
    static.run(ROUNDS)
    other.run(ROUNDS)
    assert torch.equal(static.position(), other.position())


def _sigma(f: Federation) -> Tensor:
    state = f.server.state
    inner = getattr(state, "inner", state)
    sigma: Tensor = inner.sigma
    return sigma.reshape(-1)
