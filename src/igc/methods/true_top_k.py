"""True top-k: what the k largest coordinates could do if they were found in whole gradients; a bound, not a saving upwards.

Rothchild et al., "FetchSGD: communication-efficient federated learning with sketching", ICML 2020, section 5, and its
published code.

    client -> server    g                                           D numbers
    server              v <- rho v + weighted_mean(g);  e <- e + v
                        s = the k coordinates of e that are largest in magnitude;  displacement <- displacement - eta s
                        e and v <- 0 at those coordinates (for v that is momentum factor masking, Lin et al., ICLR 2018)
    server -> client    the coordinates that changed                k a round
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from igc.messages import Due, Message
from igc.methods import replica
from igc.methods.base import REPORT, Means, Traffic, report
from igc.methods.local_top_k import check_k
from igc.methods.replica import Memory, Position, Replica, SparseDownlink
from igc.methods.top_k import largest
from igc.methods.worker import Worker
from igc.projection import Identity, Projection
from igc.records import record


@record
class State(replica.State):
    """The position; velocity v and error e, (D,) each."""

    velocity: Tensor
    error: Tensor


@dataclass(frozen=True)
class TrueTopK(SparseDownlink[State, Memory]):
    """The k largest coordinates of the mean gradient, with momentum and error feedback on the server.

    Attributes:
        projection: the identity.
        k: coordinates that a round changes.
        momentum: rho.
        masking: whether momentum starts anew at coordinates that were changed.
    """

    projection: Projection
    k: int
    momentum: float = 0.0
    masking: bool = True

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self.k, self.projection.D)

    @classmethod
    def of(cls, D: int, k: int, momentum: float = 0.0, masking: bool = True) -> TrueTopK:
        """For a model of D parameters."""
        return cls(Identity(D=D, d=D, seed=0), k, momentum, masking)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "true-top-k"}

    @override
    def init(self) -> State:
        return State(Position.start(self.projection.D), torch.zeros(self.projection.D), torch.zeros(self.projection.D))

    @override
    def client_init(self) -> Memory:
        return Memory(Replica())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        held = self._stand(memory.replica, download, worker)
        return Memory(held), report(worker.sketch(self.projection))

    @override
    def due(self) -> dict[str, Due]:
        return {"sketch": Due((self.projection.D,)), **REPORT}

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if means is None:
            return state
        velocity = torch.add(means.groups[0], state.velocity, alpha=self.momentum)
        error = state.error + velocity
        places = largest(error, self.k)
        displacement = state.position.displacement.index_add(0, places, error[places], alpha=-learning_rate)
        error.index_fill_(0, places, 0.0)
        if self.masking:
            velocity.index_fill_(0, places, 0.0)
        return State(state.position.moved(displacement, means, round), velocity, error)

    @override
    def at(self, projection: Projection) -> TrueTopK:
        return dataclasses.replace(self, projection=projection)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        return Traffic(up=self.projection.D * participations, down=None, explored=self.projection.D)
