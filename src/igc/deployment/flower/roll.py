"""Which node has whose data: nodes come and go, clients stay who they are."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Final, Protocol

from flwr.app import Message, MessageType, RecordDict

from igc.deployment.events import Tell
from igc.deployment.flower.wire import WireError, printable, unpack_presence

AGAIN_S: Final = 60.0  # before a node that answered a roll call with an error is asked once more
TTL_S: Final = 3600.0  # a roll call may be answered late


class Carrier(Protocol):
    """What is needed of Flower's `Grid`."""

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are online."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; returns the ids of messages that were taken, and gives each message its own."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that have come, each once."""


class Roll:
    """Calls the roll of new nodes, and remembers who answered what.

    Where two nodes have a client, the first that is not doubted is asked: a SuperNode that was started anew is another
    node to Flower, which takes a minute to see that the old one is gone.

    Args:
        grid: Flower's.
        everybody: all clients of the federation.
        tell: is told who comes and goes.
        poll: seconds between two looks for answers.
    """

    def __init__(self, grid: Carrier, everybody: Collection[str], tell: Tell, poll: float = 1.0) -> None:
        self._grid = grid
        self._everybody = frozenset(everybody)
        self._tell = tell
        self._poll = poll
        self._clients_of: dict[int, tuple[str, ...]] = {}  # node -> clients, in the order in which nodes came
        self._doubted: set[int] = set()
        self._asked: dict[str, int] = {}  # message -> node
        self._failed: dict[int, float] = {}  # node -> when

    @property
    def node_of(self) -> dict[str, int]:
        """Client -> the node that has its data, of clients that are there."""
        found: dict[str, int] = {}
        for node in sorted(self._clients_of, key=self._doubted.__contains__):
            for name in self._clients_of[node]:
                found.setdefault(name, node)
        return found

    def doubt(self, node: int) -> None:
        """A node did not answer in time."""
        self._doubted.add(node)

    def trust(self, node: int) -> None:
        """A node answered."""
        self._doubted.discard(node)

    def refresh(self, needed: Collection[str], patience: float) -> None:
        """See who came and who went.

        Args:
            needed: clients that it is worth waiting for, as long as some node has not answered yet.
            patience: seconds to wait at most.
        """
        end = time.monotonic() + patience
        self._look()
        while self._asked and not self.node_of.keys() >= frozenset(needed) and time.monotonic() < end:
            time.sleep(self._poll)
            self._look()

    def wait_for(self, wanted: Collection[str], count: int, patience: float) -> int:
        """Wait until so many of some clients are there; how many are in the end.

        Args:
            wanted: clients.
            count: enough of them.
            patience: seconds to wait at most.
        """
        end = time.monotonic() + patience
        while True:
            self._look()
            there = len(self.node_of.keys() & frozenset(wanted))
            if there >= count or time.monotonic() >= end:
                return there
            time.sleep(self._poll)

    def _look(self) -> None:
        online = set(self._grid.get_node_ids())
        for node in self._clients_of.keys() - online:
            del self._clients_of[node]
            self._doubted.discard(node)
            self._tell("node-left", node=node)
        self._asked = {message: node for message, node in self._asked.items() if node in online}
        long_ago = time.monotonic() - AGAIN_S
        busy = {*self._asked.values(), *(node for node, when in self._failed.items() if when > long_ago)}
        self._call(sorted(online - self._clients_of.keys() - busy))
        if self._asked:
            for reply in self._grid.pull_messages(list(self._asked)):
                self._take(reply)

    def _call(self, nodes: Iterable[int]) -> None:
        messages = [Message(RecordDict(), node, MessageType.QUERY, ttl=TTL_S) for node in nodes]
        if messages:
            self._grid.push_messages(messages)
        self._asked.update({message.metadata.message_id: message.metadata.dst_node_id for message in messages})

    def _take(self, reply: Message) -> None:
        node = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if node is None:
            return
        try:
            if reply.has_error():
                raise WireError(printable(reply.error.reason or f"error {reply.error.code}"))
            presence = unpack_presence(reply.content)
        except WireError as error:
            self._failed[node] = time.monotonic()
            self._tell("node-failed", node=node, reason=str(error))
            return
        unknown = [name for name in presence.clients if name not in self._everybody]
        there = self.node_of
        twice = [name for name in presence.clients if name in there]
        self._clients_of[node] = tuple(name for name in presence.clients if name in self._everybody)
        self._tell("node-joined", node=node, clients=len(self._clients_of[node]), igc=presence.igc)
        if unknown:
            self._tell("warning", text=f"node {node} has unknown clients, first '{printable(unknown[0])}'; left out")
        if twice:
            self._tell(
                "warning",
                text=f"node {node} has client '{twice[0]}', as has node {there[twice[0]]}; the first is asked",
            )
