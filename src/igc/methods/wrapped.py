"""A method whose clients do something else than sketch a gradient, and which is another method in all else."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor
from typing_extensions import override

from igc.messages import Due, Message
from igc.methods.base import Means, Method, Traffic, Turn
from igc.methods.worker import Worker
from igc.projection import Projection, Term


@dataclass(frozen=True)
class Wrapped(Method[Any, Any]):
    """Another method, whose workers are wrapped: what they call a sketch is something else.

    Attributes:
        inner: the other method; downloads, messages, aggregation and updates are its own.
    """

    inner: Method[Any, Any]

    @abstractmethod
    def at_work(self, worker: Worker) -> Worker:
        """The worker that the other method's upload is made with."""

    @property
    @abstractmethod
    def own(self) -> dict[str, Any]:
        """Name and settings of the wrapping, JSON-ready."""

    @property
    @override
    def linear(self) -> bool:
        return False

    @property
    @override
    def projection(self) -> Projection:
        return self.inner.projection

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**self.own, "inner": self.inner.settings}

    @override
    def init(self) -> Any:
        return self.inner.init()

    @override
    def download(self, state: Any, turn: Turn) -> dict[str, Tensor]:
        return self.inner.download(state, turn)

    @override
    def client_init(self) -> Any:
        return self.inner.client_init()

    @override
    def upload(self, memory: Any, download: Message, worker: Worker) -> tuple[Any, dict[str, Tensor]]:
        return self.inner.upload(memory, download, self.at_work(worker))

    @override
    def due(self) -> dict[str, Due]:
        return self.inner.due()

    @override
    def group(self, upload: Message, turn: Turn) -> int:
        return self.inner.group(upload, turn)

    @override
    def contribution(self, upload: Message) -> Tensor:
        return self.inner.contribution(upload)

    @override
    def update(self, state: Any, means: Means | None, round: int, learning_rate: float) -> Any:
        return self.inner.update(state, means, round, learning_rate)

    @override
    def terms(self, state: Any) -> tuple[list[Term], list[Term]]:
        return self.inner.terms(state)

    @override
    def at(self, projection: Projection) -> Self:
        return dataclasses.replace(self, inner=self.inner.at(projection))

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        return self.inner.traffic(participations, epochs)

    @override
    def began(self, state: Any) -> int:
        return self.inner.began(state)

    @override
    def forget(self, state: Any, client: str) -> Any:
        return self.inner.forget(state, client)

    @override
    def condense(self, memories: Mapping[str, Any], newest: str) -> Mapping[str, Any]:
        return self.inner.condense(memories, newest)
