"""Zeroth-order training against projected gradients, and against DeComFL as published: one direction after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from igc.methods import LocalSteps, Loss, Sketch, Static, TimeVarying, Worker, ZerothOrder
from igc.optim import Sgd
from igc.projection import DenseGaussian, Projection, Term, make_projection, to_dense
from igc.projection.theta import displacement
from support.federation import METHODS, Federation
from support.toy import ToyTask

D, DIRECTIONS = 60, 5
RATE, SMOOTHING = 0.05, 1e-2


class Bowl(Worker):
    """A client whose loss is a quadratic; it knows its gradient, too."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        root = torch.randn(D, D, generator=generator, dtype=torch.float64)
        self.H, self.b = root @ root.T / D, torch.randn(D, generator=generator, dtype=torch.float64)
        self.theta = torch.zeros(D, dtype=torch.float64)

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self.theta = displacement([*settled, *current], D).double()

    @override
    def sketch(self, projection: Projection) -> Sketch:
        return Sketch(projection.project((self.H @ self.theta - self.b).float()), 7, self.loss().value)

    @override
    def loss(self) -> Loss:
        return Loss(float(0.5 * self.theta @ self.H @ self.theta - self.b @ self.theta), 7)


@pytest.mark.parametrize("family", ["blocked-hadamard", "dense-gaussian", "partition"])
@pytest.mark.parametrize("differences", ["central", "forward"])
def test_differences_are_the_projected_gradient(family: str, differences: Any) -> None:
    projection = make_projection(family, D=D, d=DIRECTIONS, seed=1)
    generator = torch.Generator().manual_seed(0)
    sigma, past = torch.randn(DIRECTIONS, generator=generator), torch.randn(DIRECTIONS, generator=generator)
    # Central ones of a quadratic are exact at any distance.
    smoothing = 0.5 if differences == "central" else 1e-3
    wrapped = ZerothOrder(Static(projection, Sgd()), smoothing, differences).at_work(Bowl())
    exact = Bowl()
    for worker in (wrapped, exact):
        worker.move_([Term(projection, sigma)], [Term(projection.child(1), past)])
    found, right = wrapped.sketch(projection), exact.sketch(projection)
    tolerance = 1e-4 if differences == "central" else 2e-2
    torch.testing.assert_close(found.vector, right.vector, rtol=tolerance, atol=tolerance)
    assert found.weight == right.weight
    if differences == "forward":
        assert found.loss == pytest.approx(right.loss)
    assert wrapped.loss().value == pytest.approx(right.loss)


def toy_loss(theta: np.ndarray, examples: Sequence[Any]) -> float:
    model = ToyTask().model().double()
    nn.utils.vector_to_parameters(torch.from_numpy(theta), model.parameters())
    with torch.no_grad():
        total, count = ToyTask().loss(model, [(x.double(), y.double()) for x, y in examples])
    return float(total) / count


def decomfl(d: int, smoothing: float = SMOOTHING) -> Any:
    def make(projection: Projection, optimizer: Any) -> ZerothOrder:
        directions = DenseGaussian(projection.D, d, seed=5)
        inner = TimeVarying(Static(directions, optimizer), rounds_per_epoch=1)
        return ZerothOrder(inner, smoothing, "forward")

    return make


def test_fresh_directions_every_round_are_decomfl() -> None:
    """x <- x - eta (1/P) sum_j g_j z_j, g_j the weighted mean over clients of (f(x + mu z_j) - f(x)) / mu."""
    f = Federation(decomfl(DIRECTIONS), learning_rate=RATE)
    x = f.base.double().numpy().copy()
    for number in range(5):
        clients = f.sampler.sample(number)
        z = to_dense(DenseGaussian(f.space.D, DIRECTIONS, seed=5).child(number)).double().numpy() * DIRECTIONS**0.5
        assert 0.7 < z.std() < 1.3  # standard normal numbers, as published
        weights = np.array([len(f.clients[client]) for client in clients], dtype=float)
        ahead = x.copy()
        for j in range(DIRECTIONS):
            here = [toy_loss(x, f.clients[client]) for client in clients]
            there = [toy_loss(x + SMOOTHING * z[:, j], f.clients[client]) for client in clients]
            g = (weights * (np.array(there) - here)).sum() / weights.sum() / SMOOTHING
            ahead -= RATE / DIRECTIONS * g * z[:, j]
        f.run(1)
        x = ahead
        np.testing.assert_allclose(f.position().numpy(), x, rtol=1e-3, atol=2e-4)
    assert np.abs(x - f.base.numpy()).max() > 0.02


def test_a_client_receives_the_scalars_that_it_missed_and_sends_its_own() -> None:
    f = Federation(decomfl(DIRECTIONS), per_round=1)
    f.run(7)
    assert all(len(payload) == 73 + 4 * DIRECTIONS for _, _, payload in f.engine.up)
    # Each client's first contact, after 0, 1, 2, ... rounds.
    assert [len(p) for _, _, p in f.engine.down] == [60 + 4 * DIRECTIONS * (1 + n) + (17 if n else 0) for n in range(7)]


@pytest.mark.parametrize("name", ["static", "time-varying", "k-subspace", "k-subspace-time-varying", "fedavg"])
def test_it_trains_as_the_method_with_gradients(name: str) -> None:
    plain = Federation(METHODS[name])
    blind = Federation(lambda p, o: ZerothOrder(METHODS[name](p, o), SMOOTHING))
    plain.run(4)
    blind.run(4)
    moved: Tensor = plain.position() - plain.base
    assert (blind.position() - plain.position()).norm() < 0.02 * moved.norm()
    assert [len(p) for _, _, p in blind.engine.up] == [len(p) for _, _, p in plain.engine.up]


def test_local_steps_go_along_the_directions_of_the_round() -> None:
    def steps(p: Projection, o: Any) -> LocalSteps:
        return LocalSteps(TimeVarying(Static(p, o), 1), RATE, epochs=2, batch_size=2)

    plain = Federation(steps, learning_rate=1.0)
    blind = Federation(lambda p, o: ZerothOrder(steps(p, o), SMOOTHING), learning_rate=1.0)
    plain.run(3)
    blind.run(3)
    moved: Tensor = plain.position() - plain.base
    assert (blind.position() - plain.position()).norm() < 0.02 * moved.norm()
