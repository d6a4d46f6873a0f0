"""Clients whose losses are quadratics, so that minima, fixed points and trajectories are known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from igc.federation import Dropout, InProcess, Sampler, Server, Workplace
from igc.messages import Agreement
from igc.methods import Loss, Method, Sketch, Worker
from igc.projection import Projection, Term, to_dense
from igc.projection.theta import displacement

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quadratic:
    """1/2 (theta - centre)^T curvature (theta - centre), of ``weight`` examples."""

    curvature: Floats
    centre: Floats
    weight: int = 1

    def gradient(self, theta: Floats) -> Floats:
        """At theta, (D,)."""
        return self.curvature @ (theta - self.centre)

    def value(self, theta: Floats) -> float:
        """At theta, (D,)."""
        return float((theta - self.centre) @ self.gradient(theta)) / 2


def quadratics(count: int, D: int, seed: int, weights: Sequence[int] = (1,)) -> list[Quadratic]:
    """Clients that differ in curvature and in where they want to be."""
    draw = np.random.default_rng(seed)
    found = []
    for i in range(count):
        factor = draw.normal(size=(D, D)) / np.sqrt(D)
        found.append(Quadratic(factor @ factor.T + 0.2 * np.eye(D), 3 * draw.normal(size=D), weights[i % len(weights)]))
    return found


def minimum(clients: Sequence[Quadratic]) -> Floats:
    """Of the weighted mean of the losses."""
    curvature = np.sum([c.weight * c.curvature for c in clients], axis=0)
    return cast(
        Floats, np.linalg.solve(curvature, np.sum([c.weight * c.curvature @ c.centre for c in clients], axis=0))
    )


@cache
def dense(projection: Projection) -> Floats:
    """A, (D, d)."""
    return cast(Floats, to_dense(projection).double().numpy())


@dataclass
class QuadraticWorker(Worker):
    """A worker of one such client; theta_0 is zero, and every batch is all of it."""

    client: Quadratic
    steps: int = 1

    def __post_init__(self) -> None:
        self.theta: Floats = np.zeros_like(self.client.centre)

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self.theta = np.sum(
            [dense(term.projection) @ term.sigma.double().numpy() for term in (*settled, *current)], axis=0
        )

    @override
    def sketch(self, projection: Projection) -> Sketch:
        vector = torch.from_numpy(dense(projection).T @ self.client.gradient(self.theta)).float()
        return Sketch(vector, self.client.weight, self.client.value(self.theta))

    @override
    def loss(self) -> Loss:
        return Loss(self.client.value(self.theta), self.client.weight)

    @override
    def batches(self, size: int | None, epochs: int) -> Sequence[Worker]:
        return [self] * (epochs * self.steps)


class QuadraticFederation:
    """Quadratic clients under a method, through messages.

    Args:
        steps: local steps of an epoch, of each client by turns.
    """

    def __init__(
        self,
        method: Method[Any, Any],
        clients: Sequence[Quadratic],
        *,
        rate: float | Callable[[int], float],
        per_round: int | None = None,
        up: str = "float32",
        down: str = "float32",
        steps: Sequence[int] = (1,),
        weights: Any = "examples",
    ) -> None:
        self.method = method
        self.names = [f"q{i}" for i in range(len(clients))]
        workers = {f"q{i}": QuadraticWorker(client, steps[i % len(steps)]) for i, client in enumerate(clients)}
        place = cast(Workplace, type("Place", (), {"worker": staticmethod(lambda client, round: workers[client])}))
        agreement = Agreement(bytes(8), method.projection.digest, method.digest, up, down)
        self.sampler = Sampler(tuple(self.names), per_round or len(clients), 0, "epoch")
        self.engine = InProcess(method, agreement, place, Dropout(0, 0))
        schedule = rate if callable(rate) else lambda round: rate
        self.server = Server(method, agreement, self.sampler, schedule, weights)

    def run(self, rounds: int) -> Floats:
        """Theta after so many rounds more."""
        for _ in range(rounds):
            assert not self.server.run_round(self.engine).rejected
        return self.theta()

    def theta(self) -> Floats:
        """Where the server stands."""
        current, settled = self.method.terms(self.server.state)
        found: Tensor = displacement([*settled, *current], self.method.projection.D)
        return found.double().numpy()
