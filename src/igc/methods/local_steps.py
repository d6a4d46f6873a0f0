"""Local training: clients take several steps of their own, and upload how far they came.

    client              x <- sigma;  for each mini-batch b:  x <- x - eta_c (A^T g_b(x) + mu (x - sigma))
    client -> server    sigma - x, the sum of its steps: a "pseudo-gradient"
    server              sigma <- sigma - eta weighted_mean(sigma - x)       with eta = 1: the mean of the clients' x

Over the uncompressed method (A = I) and with SGD this is FedAvg (McMahan et al., AISTATS 2017, algorithm 1); with any
server optimizer, FedOpt (Reddi et al., ICLR 2021, algorithm 1); with mu > 0, FedProx (Li et al., MLSys 2020, algorithm 2).
Over a compressed one, clients train inside the subspace, and averages are exact, since A is linear. Where position is
uncompressed and only uploads are (`random-k`, `fetchsgd`), clients train all of theta and send what S makes of their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from igc.methods.worker import Sketch, Worker
from igc.methods.wrapped import Wrapped
from igc.optim import ServerOptimizer, Sgd
from igc.projection import Identity, Projection, Term


@dataclass(frozen=True)
class LocalSteps(Wrapped):
    """Clients train before they upload.

    Attributes:
        learning_rate: eta_c, of the clients' steps.
        epochs: times that a client goes through its batch.
        batch_size: examples of one step; None: all that the client drew.
        optimizer: the clients' rule; its moments begin at zero in every round, so that clients stay stateless.
        proximal: mu, of the pull mu / 2 ||theta - theta_t||^2 back to the model that the round began with.
    """

    learning_rate: float
    epochs: int = 1
    batch_size: int | None = None
    optimizer: ServerOptimizer = field(default_factory=Sgd)
    proximal: float = 0.0

    @property
    @override
    def own(self) -> dict[str, Any]:
        return {
            "name": "local-steps",
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": repr(self.optimizer),
            "proximal": self.proximal,
        }

    @override
    def at_work(self, worker: Worker) -> Worker:
        return Training(worker, self)


class Training(Worker):
    """A worker whose sketch is the way that local training went.

    Args:
        worker: computes gradients.
        local: how to train.
        correction: added to every gradient, (d,); None: nothing.

    Attributes:
        steps: that the latest training took.
        way: where it began less where it ended, in the coordinates that it trained.
    """

    def __init__(self, worker: Worker, local: LocalSteps, correction: Tensor | None = None) -> None:
        self.steps = 0
        self.way = torch.empty(0)
        self._worker = worker
        self._local = local
        self._correction = correction
        self._current: list[Term] = []
        self._settled: list[Term] = []

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self._current, self._settled = list(current), list(settled)

    @override
    def sketch(self, projection: Projection) -> Sketch:
        """Sigma - x (d,), the weight of the client's whole batch, and the mean loss met in the first epoch."""
        local = self._local
        places = {term.projection: i for i, term in enumerate(self._current)}
        # Where a method sends something else of the displacement than it stands in, clients train the displacement.
        place = places[projection] if projection in places else _whole(self._current)
        own, sigma = self._current[place]
        x, state = sigma, local.optimizer.init(sigma)
        steps = self._worker.batches(local.batch_size, local.epochs)
        met: list[Sketch] = []
        for step in steps:
            moved = [*self._current]
            moved[place] = Term(own, x)
            step.move_(moved, self._settled)
            sketch = step.sketch(own)
            gradient = sketch.vector
            if self._correction is not None:
                gradient = gradient + self._correction
            if local.proximal:
                gradient = gradient + local.proximal * own.gram(x - sigma)
            state, x = local.optimizer.update(state, x, gradient, local.learning_rate)
            met.append(sketch._replace(vector=torch.empty(0)))
        first = met[: len(steps) // local.epochs]
        weight = sum(sketch.weight for sketch in first)
        self.steps, self.way = len(steps), sigma - x
        return Sketch(
            self.way if own == projection else projection.project(self.way),
            weight,
            sum(s.loss * s.weight for s in first) / weight,
        )


def _whole(terms: Sequence[Term]) -> int:
    """Which term is the displacement itself."""
    return next(i for i, term in enumerate(terms) if isinstance(term.projection, Identity))
