"""The contract of a method: what is sent, and how it is folded in.

Pure functions over frozen state, as in FedJAX and Optax. The engine keeps what a client must remember; a method cannot
tell where it runs.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from igc.messages import Due, Message
from igc.methods.worker import Sketch, Worker
from igc.projection import Projection, Term
from igc.records import record

StateT = TypeVar("StateT")
MemoryT = TypeVar("MemoryT")


class Turn(NamedTuple):
    """A client's place in a round.

    Attributes:
        client: its id.
        round: counted from 0.
        position: its place among the round's clients, counted from 0.
        before: how many turns there were in the rounds before.
    """

    client: str
    round: int
    position: int
    before: int


class Means(NamedTuple):
    """What aggregation leaves of a round's uploads.

    Attributes:
        groups: group -> sum of the group's weighted uploads over the weight of all uploads, float32 (d,); groups that no
            client was given are absent.
        loss: weighted mean of the clients' losses.
        clients: the clients whose uploads are in it.
    """

    groups: Mapping[int, Tensor]
    loss: float
    clients: tuple[str, ...]


class Traffic(NamedTuple):
    """Numbers that one client sends and receives by METHOD.md's table, for comparison with what was measured.

    Attributes:
        up: sent.
        down: received; None: that depends on what the others did.
        explored: dimensions.
    """

    up: int
    down: int | None
    explored: int


@record
class Nothing:
    """The memory of a client that needs none."""


class MissedError(Exception):
    """A client lacks what a download builds on; the server must send all of it."""


class Method(ABC, Generic[StateT, MemoryT]):
    """A federated method.

    Attributes:
        linear: whether an upload is linear in the client's gradient, so that the gradient of a weighted union of batches
            gives the weighted mean of the uploads.
    """

    if TYPE_CHECKING:  # at run time a field of the dataclass, a constant of the class, or a property

        @property
        def linear(self) -> bool:
            """Whether uploads may be computed together."""

        @property
        def projection(self) -> Projection:
            """The projection that its matrices derive from."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Name and settings, JSON-ready: what both sides must have in common, the projection aside."""

    @abstractmethod
    def init(self) -> StateT:
        """The server's state before round 0."""

    @abstractmethod
    def download(self, state: StateT, turn: Turn) -> dict[str, Tensor]:
        """What the server sends to a client."""

    @abstractmethod
    def client_init(self) -> MemoryT:
        """What a client remembers before its first round."""

    @abstractmethod
    def upload(self, memory: MemoryT, download: Message, worker: Worker) -> tuple[MemoryT, dict[str, Tensor]]:
        """What a client makes of a download: its new memory and its upload.

        Raises:
            MissedError: the download builds on something that the memory lacks.
        """

    @abstractmethod
    def due(self) -> dict[str, Due]:
        """What an upload holds."""

    def due_in(self, state: StateT) -> dict[str, Due]:  # noqa: ARG002
        """What an upload of the round at hand holds, where a method has rounds of more than one kind."""
        return self.due()

    @abstractmethod
    def group(self, upload: Message, turn: Turn) -> int:
        """The group that an upload is averaged in.

        Raises:
            TensorError: the upload names another group than the client was given.
        """

    def contribution(self, upload: Message) -> Tensor:
        """The vector that an upload adds to its group's mean, float32.

        Raises:
            TensorError: the upload does not make sense.
        """
        return upload["sketch"]

    @abstractmethod
    def update(self, state: StateT, means: Means | None, round: int, learning_rate: float) -> StateT:
        """The state after a round; ``means`` is None where no upload came."""

    @abstractmethod
    def terms(self, state: StateT) -> tuple[list[Term], list[Term]]:
        """Theta - theta_0 as terms: current ones, and settled ones, which come first in the sum."""

    @abstractmethod
    def at(self, projection: Projection) -> Method[StateT, MemoryT]:
        """The same method over another projection of the same size."""

    @abstractmethod
    def traffic(self, participations: int, epochs: int) -> Traffic:
        """METHOD.md's table for a client that takes part so many times, in so many epochs."""

    def began(self, state: StateT) -> int:  # noqa: ARG002
        """The round in which the present subspace began; 0 where there is one for all of training."""
        return 0

    def forget(self, state: StateT, client: str) -> StateT:  # noqa: ARG002
        """The state after a client reported `MissedError`; the same where the server tracks nothing."""
        return state

    def condense(self, memories: Mapping[str, MemoryT], newest: str) -> Mapping[str, MemoryT]:  # noqa: ARG002
        """What a simulation may remember for all clients instead, for its own memory's sake.

        No client may be able to tell the difference.

        Args:
            memories: client -> what it remembers.
            newest: the client that was asked last.
        """
        return memories

    @property
    def digest(self) -> bytes:
        """Four bytes that name the method and its settings on the wire."""
        listing = json.dumps(self.settings, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(listing.encode(), digest_size=4, person=b"igc-method").digest()


def report(sketch: Sketch) -> dict[str, Tensor]:
    """The tensors that every upload of a sketch has: the vector, its weight and the client's loss."""
    return {"sketch": sketch.vector, "weight": torch.tensor(sketch.weight), "loss": torch.tensor(sketch.loss)}


REPORT: Mapping[str, Due] = {"weight": Due((), whole=True), "loss": Due(())}
