"""A grid whose replies are fetched in the background, so that no node keeps the server waiting past a deadline.

A SuperNode announces a reply first and sends what is in it afterwards. Flower's `pull_messages` waits for the rest, for
minutes where the node breaks off in between, or means to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, final

from flwr.app import Message

from igc.deployment.flower.roll import Carrier, NodeInfo

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
        """Replies to these messages that have come whole, each once."""
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
                fetch.replies = list(self._grid.pull_messages([name]))
        except BaseException as error:
            fetch.error = error
        finally:
            fetch.done.set()
