"""Local top-k with client error feedback: clients send the largest coordinates of their gradients, and keep the rest.

Aji and Heafield, EMNLP 2017; Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018, algorithm 1 (with
the learning rate on the server: the same for a constant one).

    client              p = e + g;  s = the k coordinates of p that are largest in magnitude;  e <- p - s
    client -> server    s: k indices, k values
    server              displacement steps on weighted_mean(s); every coordinate that it changed goes to the clients

s is what the server reads: with a lossy codec, clients send a s in place of s, as in `igc.methods.error_feedback`, and what
that loses stays in e.

A client keeps e, D numbers. Where the server did not take an upload, the next download says so (it builds on an older one),
and what was lost goes back into e. Without error feedback e stays 0 and clients keep their replica alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS
from igc.codecs.index_set import index_words, pack_indices
from igc.errors import ProjectionError
from igc.finite import all_finite
from igc.messages import Due, Message
from igc.methods import replica
from igc.methods.base import REPORT, Means, Traffic
from igc.methods.error_feedback import coded
from igc.methods.replica import Position, Replica, SparseDownlink, scattered
from igc.methods.top_k import largest
from igc.methods.worker import Worker
from igc.optim import OptimizerState, ServerOptimizer
from igc.projection import Identity, Projection
from igc.records import record


@record
class State(replica.State):
    """The position and the server optimizer's moments."""

    optimizer: OptimizerState


@record
class Sent:
    """An upload: indices (k,), and values (k,) as the server reads them."""

    indices: Tensor
    values: Tensor


@record
class Memory(replica.Memory):
    """A client's replica, and what it has not sent.

    Attributes:
        error: e after the last upload, (D,); None: zero.
        sent: the last upload; None: there was none.
    """

    error: Tensor | None = None
    sent: Sent | None = None


@dataclass(frozen=True)
class LocalTopK(SparseDownlink[State, Memory]):
    """Each client's k largest coordinates.

    Attributes:
        projection: the identity.
        optimizer: the server's.
        k: coordinates of an upload.
        error_feedback: keep what was not sent, and add it to the next gradient.
        up: the codec that values go by; with error feedback, what it loses was not sent.
    """

    projection: Projection
    optimizer: ServerOptimizer
    k: int
    error_feedback: bool = True
    up: str = "float32"

    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_k(self.k, self.projection.D)

    @classmethod
    def of(
        cls, D: int, optimizer: ServerOptimizer, k: int, error_feedback: bool = True, up: str = "float32"
    ) -> LocalTopK:
        """For a model of D parameters."""
        return cls(Identity(D=D, d=D, seed=0), optimizer, k, error_feedback, up)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "local-top-k", "k": self.k, "error_feedback": self.error_feedback}

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
        sketch = worker.sketch(self.projection)
        total = sketch.vector if memory.error is None else memory.error + sketch.vector
        if memory.sent is not None and int(download["since"]) < memory.replica.number:  # the server did not get it
            total = total.index_add(0, memory.sent.indices, memory.sent.values)
        indices = largest(total, self.k)
        values, lost = self._coded(total[indices])
        tensors = {
            "indices": pack_indices(indices, self.projection.D),
            "values": values,
            "weight": torch.tensor(sketch.weight),
            "loss": torch.tensor(sketch.loss),
        }
        if not self.error_feedback or not all_finite(total):
            return Memory(held), tensors  # an error that is not finite would spoil all uploads to come
        sent = Sent(indices, total[indices] - lost)
        return Memory(held, total.index_copy(0, indices, lost), sent), tensors

    def _coded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """What to send of the values, and what the server does not read of them."""
        if self.error_feedback and not CODECS[self.up].lossless and (found := coded(values, self.up)):
            return found
        return values, torch.zeros_like(values)

    @override
    def due(self) -> dict[str, Due]:
        return {
            "indices": Due((index_words(self.k, self.projection.D),), whole=True),
            "values": Due((self.k,)),
            **REPORT,
        }

    @override
    def contribution(self, upload: Message) -> Tensor:
        return scattered(upload, self.projection.D)

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if means is None:
            return state
        optimizer, displacement = self.optimizer.update(
            state.optimizer, state.position.displacement, means.groups[0], learning_rate
        )
        return State(state.position.moved(displacement, means, round), optimizer)

    @override
    def at(self, projection: Projection) -> LocalTopK:
        return dataclasses.replace(self, projection=projection)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        up = self.k + index_words(self.k, self.projection.D)
        return Traffic(up=up * participations, down=None, explored=self.projection.D)


def check_k(k: int, D: int) -> None:
    """Whether k coordinates can be chosen from D.

    Raises:
        ProjectionError: they cannot.
    """
    if not 1 <= k <= D:
        raise ProjectionError(f"k = {k:,}; choose from 1 to D = {D:,}, the number of trainable parameters")
