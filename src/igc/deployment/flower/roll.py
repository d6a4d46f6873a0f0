"""Which node has whose data: nodes come and go, clients stay who they are."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple, Protocol

from flwr.app import Message, MessageType, RecordDict

from igc.deployment.events import Tell
from igc.deployment.flower.owners import Claims, Owners
from igc.deployment.flower.wire import UNREADABLE, WireError, printable, unpack_presence

AGAIN_S: Final = 60.0  # before a node that answered a roll call with an error is asked once more
TTL_S: Final = 3600.0  # a roll call may be answered late
SLOW_S: Final = 120.0  # a node that has not answered a roll call for so long holds up no round any more
REMIND_S: Final = 60.0  # between two events that say what is waited for


class NodeInfo(Protocol):
    """What is needed of a node as Flower describes it."""

    @property
    def node_id(self) -> int:
        """Its id."""

    @property
    def public_key(self) -> bytes:
        """PEM; its own, or one that Flower made for it when it started."""


class Carrier(Protocol):
    """What is needed of Flower's `Grid`."""

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Nodes that are online."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; returns the ids of messages that were taken, and gives each message its own."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that have come, each once."""


class _Call(NamedTuple):
    """A roll call that has not been answered."""

    node: int
    when: float


class Roll:
    """Calls the roll of new nodes, and remembers who answered what.

    Where several nodes have a client, the one that claimed it first keeps it for as long as it is online, whether it has
    answered this roll call or not: nobody takes a client by claiming it. Where ``owners`` says who may have it, all of
    those are trusted alike, and the first that is not late is asked.

    Args:
        grid: Flower's.
        everybody: all clients of the federation.
        tell: is told who comes and goes.
        poll: seconds between two looks for answers.
        owners: who may have whom; None: anybody whom nobody has.
        claims: of the run so far.
        slow: seconds after which a roll call that is not answered holds up nobody any more.
    """

    def __init__(
        self,
        grid: Carrier,
        everybody: Collection[str],
        tell: Tell,
        poll: float = 1.0,
        *,
        owners: Owners | None = None,
        claims: Claims | None = None,
        slow: float = SLOW_S,
    ) -> None:
        self._grid = grid
        self._everybody = frozenset(everybody)
        self._tell = tell
        self._poll = poll
        self._owners = owners
        self._claims = Claims() if claims is None else claims
        self._slow = slow
        self._online: dict[int, bytes] = {}  # node -> public key
        self._clients_of: dict[int, frozenset[str]] = {}  # of nodes that answered
        self._doubted: set[int] = set()
        self._asked: dict[str, _Call] = {}  # by message
        self._failed: dict[int, float] = {}  # node -> when
        self._found: dict[str, int] | None = None  # `node_of`, until something changes

    @property
    def node_of(self) -> dict[str, int]:
        """Client -> the node that has its data, of clients that are there."""
        if self._found is None:
            claimed = {name for names in self._clients_of.values() for name in names}
            found = {name: self._chosen(name) for name in claimed}
            self._found = {name: node for name, node in found.items() if node is not None}
        return self._found

    def doubt(self, node: int) -> None:
        """A node did not answer in time."""
        self._doubted.add(node)
        self._found = None

    def trust(self, node: int) -> None:
        """A node answered."""
        if node in self._doubted:
            self._doubted.discard(node)
            self._found = None

    def has_left(self, node: int) -> bool:
        """Whether a node is not online at the moment."""
        return all(other.node_id != node for other in self._grid.get_nodes())

    def refresh(self, needed: Collection[str], patience: float) -> None:
        """See who came and who went.

        Args:
            needed: clients that it is worth waiting for, as long as some new node may still answer.
            patience: seconds to wait at most.
        """
        end = time.monotonic() + patience
        self._look()
        while self._may_answer() and not self.node_of.keys() >= frozenset(needed) and time.monotonic() < end:
            time.sleep(self._poll)
            self._look()

    def wait_for(self, wanted: Collection[str], count: int, patience: float, **facts: Any) -> int:
        """Wait until so many of some clients are there; how many are in the end.

        Args:
            wanted: clients.
            count: enough of them.
            patience: seconds to wait at most.
            facts: told with each event that says what is waited for.
        """
        names = frozenset(wanted)
        now = time.monotonic()
        end, remind = now + patience, now
        while True:
            self._look()
            there = len(self.node_of.keys() & names)
            now = time.monotonic()
            if there >= count or now >= end:
                return there
            if now >= remind:
                self._tell(
                    "waiting", **facts, clients=there, needed=count, nodes=len(self._online), seconds=int(end - now)
                )
                remind = now + REMIND_S
            time.sleep(self._poll)

    def _chosen(self, client: str) -> int | None:
        """The node that is asked for a client; None while the one that is to be asked has not said that it is there."""
        nodes = [node for node in self._claims.nodes(client) if node in self._online]
        if self._owners is not None:
            ready = [node for node in nodes if client in self._clients_of.get(node, ())]
            return min(ready, key=self._doubted.__contains__, default=None)
        for node in nodes:
            if node not in self._clients_of and node not in self._failed:
                return None
            if client in self._clients_of.get(node, ()):
                return node
        return None

    def _may_answer(self) -> bool:
        since = time.monotonic() - self._slow
        return any(call.when > since for call in self._asked.values())

    def _look(self) -> None:
        online = {node.node_id: node.public_key for node in self._grid.get_nodes()}
        if online.keys() != self._online.keys():
            self._found = None
        self._online = online
        for node in self._clients_of.keys() - online:
            del self._clients_of[node]
            self._doubted.discard(node)
            self._tell("node-left", node=node)
        self._asked = {message: call for message, call in self._asked.items() if call.node in online}
        long_ago = time.monotonic() - AGAIN_S
        busy = {*(call.node for call in self._asked.values())}
        busy |= {node for node, when in self._failed.items() if when > long_ago}
        self._call(sorted(online.keys() - self._clients_of.keys() - busy))
        if self._asked:
            for reply in self._grid.pull_messages(list(self._asked)):
                self._take(reply)

    def _call(self, nodes: Iterable[int]) -> None:
        messages = [Message(RecordDict(), node, MessageType.QUERY, ttl=TTL_S) for node in nodes]
        if messages:
            self._grid.push_messages(messages)
        now = time.monotonic()
        self._asked.update({m.metadata.message_id: _Call(m.metadata.dst_node_id, now) for m in messages})

    def _take(self, reply: Message) -> None:
        call = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if call is None:
            return
        node = call.node
        self._found = None
        try:
            if reply.has_error():
                reason = printable(reply.error.reason or f"error {reply.error.code}")
                raise WireError(f"its answer cannot be read: {reason}" if reply.error.code == UNREADABLE else reason)
            presence = unpack_presence(reply.content)
        except WireError as error:
            self._failed[node] = time.monotonic()
            self._tell("node-failed", node=node, reason=str(error))
            return
        self._failed.pop(node, None)
        known = tuple(name for name in presence.clients if name in self._everybody)
        allowed = known if self._owners is None else self._owners.admitted(node, self._online.get(node, b""), known)
        self._claims.add(node, allowed)
        self._clients_of[node] = frozenset(allowed)
        self._tell("node-joined", node=node, clients=len(self._clients_of[node]), igc=presence.igc)
        for said, kept, why in (
            (presence.clients, known, "unknown clients"),
            (known, allowed, "clients that `owners` does not let it have"),
        ):
            if left_out := [name for name in said if name not in frozenset(kept)]:
                first = f"first '{printable(left_out[0])}'"
                self._tell("warning", text=f"node {node} claims {len(left_out)} {why}, {first}; left out")
        if self._owners is None and (twice := [name for name in allowed if self._chosen(name) != node]):
            keeps = next(other for other in self._claims.nodes(twice[0]) if other in self._online and other != node)
            self._tell(
                "warning",
                text=f"node {node} claims {len(twice)} clients that others have, first '{twice[0]}', which node {keeps}"
                " keeps while it is online",
            )
