"""FetchSGD: clients send Count Sketches; momentum and error feedback live in the sketch; a round changes k coordinates.

Rothchild et al., "FetchSGD: communication-efficient federated learning with sketching", ICML 2020, algorithm 1, as its
published code has it.

    client -> server    S(g), S a Count Sketch of r rows and c columns      r c numbers
    server              V <- rho V + weighted_mean(S(g));  E <- E + V
                        s = the k largest of the estimates U(E);  displacement <- displacement - eta s
                        E <- 0 in the buckets that s falls into;  V too (momentum factor masking)
    server -> client    the coordinates that changed                        k a round

Algorithm 1 takes S(s) from E, and has eta in E. The published code does neither: taking S(s) away "should work but doesn't
(model diverges)", says a comment there. Outside of E, eta gives the same for a constant learning rate.
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
from igc.projection import CountSketch
from igc.records import record


@record
class State(replica.State):
    """The position; velocity V and error E, sketches (r c,) each."""

    velocity: Tensor
    error: Tensor


@dataclass(frozen=True)
class FetchSgd(SparseDownlink[State, Memory]):
    """Sketched gradients.

    Attributes:
        projection: the Count Sketch.
        k: coordinates that a round changes.
        momentum: rho.
        masking: whether momentum starts anew in buckets of coordinates that were changed.
    """

    projection: CountSketch
    k: int
    momentum: float = 0.0
    masking: bool = True

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_k(self.k, self.projection.D)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "fetchsgd"}

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
        estimate = self.projection.estimate(error)
        places = largest(estimate, self.k)
        step = torch.zeros(self.projection.D).index_copy_(0, places, estimate[places])
        hit = self.projection.project(step) != 0
        error.masked_fill_(hit, 0.0)
        if self.masking:
            velocity.masked_fill_(hit, 0.0)
        displacement = torch.sub(state.position.displacement, step, alpha=learning_rate)
        return State(state.position.moved(displacement, means, round), velocity, error)

    @override
    def at(self, projection: Any) -> FetchSgd:
        return dataclasses.replace(self, projection=projection)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        return Traffic(up=self.projection.d * participations, down=None, explored=self.projection.D)
