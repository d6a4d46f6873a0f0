"""Random-k: every round has k coordinates, drawn from the seed, and clients send their gradient there.

Konecny et al., "Federated learning: strategies for improving communication efficiency", 2016, section 2.1 ("random mask").
One set for all clients of a round, so that no index goes up.

    client              g = gradient of its batch at theta_0 + displacement
    client -> server    A_t^T g, the columns of A_t being k unit vectors, scaled so that E[A_t A_t^T] = I     k numbers
    server              displacement steps on A_t weighted_mean(A_t^T g)
    server -> client    the coordinates that changed                                                          k a round
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from igc.messages import Due, Message
from igc.methods import replica
from igc.methods.base import REPORT, Means, Traffic, report
from igc.methods.replica import Memory, Position, Replica, SparseDownlink
from igc.methods.worker import Worker
from igc.optim import OptimizerState, ServerOptimizer
from igc.projection import Projection
from igc.records import record


@record
class State(replica.State):
    """The position and the server optimizer's moments, (D,) each."""

    optimizer: OptimizerState


@dataclass(frozen=True)
class RandomK(SparseDownlink[State, Memory]):
    """Fresh coordinates in every round.

    Attributes:
        projection: `igc.projection.Coordinates` of the first round; its children are those of the others.
        optimizer: the server's.
    """

    projection: Projection
    optimizer: ServerOptimizer

    linear: ClassVar[bool] = True

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "random-k"}

    @override
    def init(self) -> State:
        position = Position.start(self.projection.D)
        return State(position, self.optimizer.init(position.displacement))

    @override
    def client_init(self) -> Memory:
        return Memory(Replica())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        held = self._stand(memory.replica, download, worker)
        return Memory(held), report(worker.sketch(self.projection.child(download.round)))

    @override
    def due(self) -> dict[str, Due]:
        return {"sketch": Due((self.projection.d,)), **REPORT}

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if means is None:
            return state
        gradient = self.projection.child(round).expand(means.groups[0])
        optimizer, displacement = self.optimizer.update(
            state.optimizer, state.position.displacement, gradient, learning_rate
        )
        return State(state.position.moved(displacement, means, round), optimizer)

    @override
    def at(self, projection: Projection) -> RandomK:
        return dataclasses.replace(self, projection=projection)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        k = self.projection.d
        explored = min(k * participations, self.projection.D)
        return Traffic(up=k * participations, down=None, explored=explored)
