"""Static intrinsic gradient compression: one matrix A for the whole training.

Melas-Kyriazi and Wang, FL4NLP 2022, algorithm "static"; METHOD.md, section 2.

    server -> client    sigma                                       d numbers
    client              theta = theta_0 + A sigma;  g = gradient of its batch at theta
    client -> server    A^T g                                       d numbers
    server              sigma <- sigma - eta weighted_mean(A^T g)   (or any optimizer's step)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from igc.messages import Due, Message
from igc.methods.base import REPORT, Means, Method, Nothing, Traffic, Turn, report
from igc.methods.worker import Worker
from igc.optim import OptimizerState, ServerOptimizer
from igc.projection import Projection, Term
from igc.records import record


@record
class State:
    """sigma (d,) and the server optimizer's moments."""

    sigma: Tensor
    optimizer: OptimizerState


@dataclass(frozen=True)
class Static(Method[State, Nothing]):
    """One subspace for the whole training."""

    projection: Projection
    optimizer: ServerOptimizer
    name: str = "static"

    linear: ClassVar[bool] = True

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": self.name}

    @override
    def init(self) -> State:
        sigma = torch.zeros(self.projection.d)
        return State(sigma, self.optimizer.init(sigma))

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        return {"sigma": state.sigma}

    @override
    def client_init(self) -> Nothing:
        return Nothing()

    @override
    def upload(self, memory: Nothing, download: Message, worker: Worker) -> tuple[Nothing, dict[str, Tensor]]:
        worker.move_(self.terms_of(download["sigma"]))
        return memory, report(worker.sketch(self.projection))

    @override
    def due(self) -> dict[str, Due]:
        return {"sketch": Due((self.projection.d,)), **REPORT}

    @override
    def group(self, upload: Message, turn: Turn) -> int:
        return 0

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if means is None:
            return state
        optimizer, sigma = self.optimizer.update(state.optimizer, state.sigma, means.groups[0], learning_rate)
        return State(sigma, optimizer)

    @override
    def terms(self, state: State) -> tuple[list[Term], list[Term]]:
        return self.terms_of(state.sigma), []

    def terms_of(self, sigma: Tensor) -> list[Term]:
        """Theta - theta_0 for a sigma of shape (d,)."""
        return [Term(self.projection, sigma)]

    @override
    def at(self, projection: Projection) -> Static:
        return dataclasses.replace(self, projection=projection)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        d = self.projection.d
        return Traffic(up=d * participations, down=d * participations, explored=d)
