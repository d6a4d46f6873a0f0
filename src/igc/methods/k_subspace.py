"""K-subspace intrinsic gradient compression: K matrices at once, one of them for each client.

Melas-Kyriazi and Wang, FL4NLP 2022, algorithm "K-subspace"; METHOD.md, section 2.

    server -> client    sigma^(1..K), and an index k                K d numbers
    client              theta = theta_0 + sum_k A^(k) sigma^(k);  g = gradient of its batch at theta
    client -> server    A^(k)T g, and k                             d numbers
    server              each sigma^(k) steps on the sum of its clients' uploads over the weight of the whole round
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from igc.messages import Due, Message, TensorError
from igc.methods.base import REPORT, Means, Method, Nothing, Traffic, Turn, report
from igc.methods.worker import Worker
from igc.optim import OptimizerState, ServerOptimizer
from igc.projection import Projection, Term
from igc.records import record


@record
class State:
    """sigma (K, d) and the server optimizer's moments."""

    sigma: Tensor
    optimizer: OptimizerState


@dataclass(frozen=True)
class KSubspace(Method[State, Nothing]):
    """K subspaces at once.

    Attributes:
        subspaces: K.
    """

    projection: Projection
    optimizer: ServerOptimizer
    subspaces: int

    linear: ClassVar[bool] = True

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "k-subspace", "subspaces": self.subspaces}

    def matrix(self, k: int) -> Projection:
        """A^(k), counted from 0; the first is the static method's."""
        return self.projection.child(0, k)

    @override
    def init(self) -> State:
        sigma = torch.zeros(self.subspaces, self.projection.d)
        return State(sigma, self.optimizer.init(sigma))

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        return {"sigma": state.sigma, "subspace": torch.tensor(self._given(turn))}

    @override
    def client_init(self) -> Nothing:
        return Nothing()

    @override
    def upload(self, memory: Nothing, download: Message, worker: Worker) -> tuple[Nothing, dict[str, Tensor]]:
        k = int(download["subspace"])
        worker.move_(self.terms_of(download["sigma"]))
        return memory, {**report(worker.sketch(self.matrix(k))), "subspace": torch.tensor(k)}

    @override
    def due(self) -> dict[str, Due]:
        return {"sketch": Due((self.projection.d,)), **REPORT, "subspace": Due((), whole=True)}

    @override
    def group(self, upload: Message, turn: Turn) -> int:
        if int(upload["subspace"]) != self._given(turn):
            raise TensorError(f"sketched in subspace {int(upload['subspace'])}, given was {self._given(turn)}")
        return self._given(turn)

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if means is None:
            return state
        mean = torch.zeros_like(state.sigma)  # a subspace that no client was given saw no gradient
        for k, part in means.groups.items():
            mean[k] = part
        optimizer, sigma = self.optimizer.update(state.optimizer, state.sigma, mean, learning_rate)
        return State(sigma, optimizer)

    @override
    def terms(self, state: State) -> tuple[list[Term], list[Term]]:
        return self.terms_of(state.sigma), []

    @override
    def at(self, projection: Projection) -> KSubspace:
        return dataclasses.replace(self, projection=projection)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        d, K = self.projection.d, self.subspaces
        return Traffic(up=d * participations, down=K * d * participations, explored=K * d)

    def terms_of(self, sigma: Tensor) -> list[Term]:
        """Theta - theta_0 for a sigma of shape (K, d)."""
        return [Term(self.matrix(k), sigma[k]) for k in range(self.subspaces)]

    def _given(self, turn: Turn) -> int:
        # In turns through the shuffled clients: uniform for each client, balanced over rounds even where K > W. Rounds
        # differ in size where the last of a pass is smaller, so that turns are counted, not rounds.
        return (turn.before + turn.position) % self.subspaces
