"""Momentum and error feedback on the server, in whatever space uploads are in; a round changes k coordinates.

What true top-k and FetchSGD have in common (Rothchild et al., "FetchSGD: communication-efficient federated learning with
sketching", ICML 2020, and its published code): v and e are vectors of the uploads' length d, and

    v <- rho v + weighted_mean(uploads);  e <- e + v
    s = k coordinates of the model, found in e;  displacement <- displacement - eta s
    e <- 0 where s came from; v too (momentum factor masking, Lin et al., ICLR 2018)
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from igc.messages import Due, Message
from igc.methods import replica
from igc.methods.base import REPORT, Means, Traffic, report
from igc.methods.local_top_k import check_k
from igc.methods.replica import Memory, Position, Replica, SparseDownlink
from igc.methods.worker import Worker
from igc.projection import Projection
from igc.records import record

ProjectionT = TypeVar("ProjectionT", bound=Projection)


@record
class State(replica.State):
    """The position; velocity v and error e, (d,) each."""

    velocity: Tensor
    error: Tensor


@dataclass(frozen=True)
class ServerError(SparseDownlink[State, Memory], Generic[ProjectionT]):
    """Uploads of d numbers; k coordinates of the model that the server finds in what they gathered.

    Attributes:
        projection: what uploads are of the gradient.
        k: coordinates that a round changes.
        momentum: rho.
        masking: whether momentum starts anew where coordinates were changed.
    """

    projection: ProjectionT
    k: int
    momentum: float = 0.0
    masking: bool = True

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self.k, self.projection.D)

    @abstractmethod
    def found(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """The step in an error (d,): k coordinates of the model, int64 and increasing, and their values."""

    @abstractmethod
    def cover(self, places: Tensor, values: Tensor) -> Tensor:
        """Where in (d,) a step came from, bool."""

    @override
    def init(self) -> State:
        d = self.projection.d
        return State(Position.start(self.projection.D), torch.zeros(d), torch.zeros(d))

    @override
    def client_init(self) -> Memory:
        return Memory(Replica())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        held = self._stand(memory.replica, download, worker)
        return Memory(held), report(worker.sketch(self.projection))

    @override
    def due(self) -> dict[str, Due]:
        return {"sketch": Due((self.projection.d,)), **REPORT}

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if means is None:
            return state
        velocity = torch.add(means.groups[0], state.velocity, alpha=self.momentum)
        error = state.error + velocity
        places, values = self.found(error)
        hit = self.cover(places, values)
        error.masked_fill_(hit, 0.0)
        if self.masking:
            velocity.masked_fill_(hit, 0.0)
        displacement = state.position.displacement.index_add(0, places, values, alpha=-learning_rate)
        return State(state.position.moved(displacement, means, round), velocity, error)

    @override
    def at(self, projection: Any) -> Self:
        return dataclasses.replace(self, projection=projection)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        return Traffic(up=self.projection.d * participations, down=None, explored=self.projection.D)
