"""A grid whose replies are fetched in the background, so that no node keeps the server waiting past a deadline.

A SuperNode announces a reply first and sends what is in it afterwards. Flower's `pull_messages` waits for the rest, for
minutes where the node breaks off in between, or means to. It also makes a message of whatever the node sent, and raises
where that is none: a node's doing, which is no reason to end the run of all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, final

import httpx
from flwr.app import Error, Message, MessageType, Metadata, RecordDict
from flwr.app.message import make_message

from igc.deployment.flower.roll import Carrier, NodeInfo
from igc.deployment.flower.wire import UNREADABLE

WAIT_S: Final = 5.0  # for replies to be there; most are at once
AT_ONCE: Final = 8  # fetches
FORGET_S: Final = 3600.0  # replies that came too late for anybody to ask


@dataclass
class _Fetch:
    """The fetching of the reply to one message."""

    began: float
    done: threading.Event = field(default_factory=threading.Event)
    replies: list[Message] = field(default_factory=list)
    error: BaseException | None = None


@final
class Timely:
    """A `Carrier` that returns from `pull_messages` in time, whatever nodes do; what comes later is there at the next.

    A reply answers the message that it was fetched for, whatever its own bytes say; one that cannot be read is an error
    with the code `igc.deployment.flower.wire.UNREADABLE`.

    Args:
        grid: Flower's; each reply is fetched from it in a thread of its own.
        wait: seconds that a call takes at most, or little more.
    """

    def __init__(self, grid: Carrier, wait: float = WAIT_S) -> None:
        self._grid = grid
        self._wait = wait
        self._fetches: dict[str, _Fetch] = {}  # by message
        self._turns = threading.Semaphore(AT_ONCE)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Nodes that are online."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that have come whole, each once.

        Raises:
            httpx.HTTPError: (or OSError) the SuperLink cannot be reached, or refuses.
        """
        now = time.monotonic()
        self._fetches = {name: fetch for name, fetch in self._fetches.items() if now - fetch.began < FORGET_S}
        wanted = list(message_ids)
        for name in wanted:
            if name not in self._fetches:
                self._fetches[name] = _Fetch(now)
                threading.Thread(target=self._fetch, args=(name, self._fetches[name]), daemon=True).start()
        replies = []
        for name in wanted:
            fetch = self._fetches[name]
            if fetch.done.wait(max(0.0, now + self._wait - time.monotonic())):
                del self._fetches[name]
                if fetch.error is not None:
                    raise fetch.error
                replies += fetch.replies
        return replies

    def _fetch(self, name: str, fetch: _Fetch) -> None:
        try:
            with self._turns:
                fetch.replies = [_checked(name, reply) for reply in self._grid.pull_messages([name])]
        except BaseException as error:
            if _is_nodes_doing(error):
                fetch.replies = [_unreadable(name, f"{type(error).__name__}: {error}")]
            else:
                fetch.error = error
        finally:
            fetch.done.set()


def _is_nodes_doing(error: BaseException) -> bool:
    """Whether fetching one reply failed over what is in it, and not over the way to the SuperLink."""
    if isinstance(error, httpx.HTTPStatusError):
        # The SuperLink, too, can stumble over what a node left there. One that fails altogether fails the next call, too.
        return error.response.status_code == httpx.codes.INTERNAL_SERVER_ERROR
    # Beyond `Exception` are Ctrl-C, and Flower's word that the run was stopped.
    return isinstance(error, Exception) and not isinstance(error, httpx.HTTPError | OSError)


def _checked(name: str, reply: object) -> Message:
    """A reply, as one to the message that it was fetched for: a node must not answer another's."""
    if not isinstance(reply, Message):
        return _unreadable(name, f"it is a {type(reply).__name__}")
    if not reply.has_error() and not (reply.has_content() and isinstance(reply.content, RecordDict)):
        return _unreadable(name, "it holds no records")
    reply.metadata.__dict__["_reply_to_message_id"] = name  # as Flower sets its other ids
    return reply


def _unreadable(name: str, reason: str) -> Message:
    metadata = Metadata(
        run_id=0,
        message_id=name,
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id=name,
        group_id="",
        created_at=time.time(),
        ttl=0,
        message_type=MessageType.TRAIN,
    )
    return make_message(metadata, error=Error(UNREADABLE, reason))
