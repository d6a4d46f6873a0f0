"""The engine: what carries messages. Bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from igc.errors import IgcError


class Request(NamedTuple):
    """A download on its way to a client.

    Attributes:
        client: its id.
        position: its place in the round.
        payload: the message.
    """

    client: str
    position: int
    payload: bytes


class Reply(NamedTuple):
    """What came back: a payload, or the reason why none did.

    Attributes:
        client: its id.
        position: its place in the round.
        payload: the upload, or None.
        error: why there is none: one of "dropped" (the client never answered), "absent" (it could not be reached, and was
            sent nothing), "missed" (it lacks an epoch) or a sentence.
    """

    client: str
    position: int
    payload: bytes | None
    error: str = ""


DROPPED = "dropped"
ABSENT = "absent"
MISSED = "missed"


class RefusedError(IgcError):
    """A client gives no answer, because it would tell more than the recipe lets it; its reply has the reason."""


class Engine(Protocol):
    """Carries the requests of a round to clients and their replies back, in the order of requests."""

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        """Replies to all requests, one each."""

    def close(self) -> None:
        """Let go of what it holds, processes for instance; a later exchange takes it up again."""


class StatefulEngine(Engine, Protocol):
    """An engine of a run.

    Attributes:
        memories: client -> what it remembers, for the run's checkpoints; empty where clients keep it themselves.
    """

    memories: dict[str, Any]
