"""Zeroth-order training: clients send how their loss changes along seeded directions; no gradient, no backward pass.

    client              s_j = (f(sigma + h e_j) - f(sigma - h e_j)) / 2h  for each of the d coordinates,  h = mu sqrt(d)
                        f(sigma): the loss of its batch at theta_0 + A sigma
    client -> server    s, which stands for A^T g: equal to it up to O(mu^2)

All else is the method that is wrapped. Over the time-varying one with fresh matrices in every round this is DeComFL (Li et
al., "Achieving dimension-free communication in federated learning via zeroth-order optimization", ICLR 2025, algorithms 3
and 4): d scalars up, and down the d scalars of each round that the client has not seen, from which it replays the server's
steps. The columns of A are its directions z_j, divided by sqrt(d): with SGD of rate eta, theta moves by
-eta (1/d) sum_j z_j <z_j, g>, and mu is a step along z_j. Its Gaussian directions are the projection `dense-gaussian`; the
default family's have entries of +1 and -1 in place of normal ones, and are orthogonal to one another.

With `LocalSteps` inside, clients take several such steps along the round's directions before they upload. FedKSeed (Qin et
al., ICML 2024) draws its directions from a fixed pool of seeds instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from igc.methods.worker import Loss, Sketch, Worker
from igc.methods.wrapped import Wrapped
from igc.projection import Projection, Term


@dataclass(frozen=True)
class ZerothOrder(Wrapped):
    """Finite differences in place of projected gradients.

    Attributes:
        smoothing: mu, the length of a step along a direction whose entries have variance 1.
        differences: ``central``: two losses a direction, exact for quadratics; ``forward``: one, and the loss where the
            client stands, for all of them.
    """

    smoothing: float = 1e-3
    differences: Literal["central", "forward"] = "central"

    @property
    @override
    def own(self) -> dict[str, Any]:
        return {"name": "zeroth-order", "smoothing": self.smoothing, "differences": self.differences}

    @override
    def at_work(self, worker: Worker) -> Worker:
        return _Differences(worker, self)


class _Differences(Worker):
    """A worker whose sketch is made of losses alone."""

    def __init__(self, worker: Worker, settings: ZerothOrder) -> None:
        self._worker = worker
        self._settings = settings
        self._current: list[Term] = []
        self._settled: list[Term] = []

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self._current, self._settled = list(current), list(settled)

    @override
    def sketch(self, projection: Projection) -> Sketch:
        """The differences (d,), the weight, and the loss: the mean of all that were met, which is that here to O(mu^2)."""
        central = self._settings.differences == "central"
        place = next(i for i, term in enumerate(self._current) if term.projection == projection)
        sigma, h = self._current[place].sigma, self._settings.smoothing * math.sqrt(projection.d)
        here = None if central else self._loss_at(place, sigma)
        met = [] if here is None else [here]
        slopes = torch.empty(projection.d)
        for j, step in enumerate(_steps(projection.d, h)):
            ahead = self._loss_at(place, sigma + step)
            behind = here or self._loss_at(place, sigma - step)
            slopes[j] = (ahead.value - behind.value) / (2 * h if central else h)
            met += [ahead, behind] if central else []
        return Sketch(slopes, met[0].weight, sum(loss.value for loss in met) / len(met))

    @override
    def loss(self) -> Loss:
        self._worker.move_(self._current, self._settled)
        return self._worker.loss()

    @override
    def batches(self, size: int | None, epochs: int) -> Sequence[Worker]:
        return [_Differences(worker, self._settings) for worker in self._worker.batches(size, epochs)]

    def _loss_at(self, place: int, sigma: Tensor) -> Loss:
        moved = [*self._current]
        moved[place] = moved[place]._replace(sigma=sigma)
        self._worker.move_(moved, self._settled)
        return self._worker.loss()


def _steps(d: int, length: float) -> Iterator[Tensor]:
    """The d unit vectors, times a length."""
    for j in range(d):
        step = torch.zeros(d)
        step[j] = length
        yield step
