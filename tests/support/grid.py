"""A Flower grid in this process: its nodes are ClientApps, called when their reply is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

RUN = 7

Behaviour = Callable[[Message, Message], Message | None]


@dataclass
class Node:
    """A SuperNode.

    Attributes:
        app: what it runs.
        context: what Flower keeps for it.
        behave: (message, reply) -> the reply that it sends; None: it says nothing.
    """

    app: ClientApp
    context: Context
    behave: Behaviour = lambda message, reply: reply

    def lose_memory(self) -> None:
        self.context.state = RecordDict()


@dataclass
class FakeGrid:
    """Flower's grid as far as igc uses it; every message goes through Flower's own serialisation."""

    nodes: dict[int, Node] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    keys: dict[int, bytes] = field(default_factory=dict)
    _waiting: dict[str, bytes] = field(default_factory=dict)

    def add(
        self, number: int, app: ClientApp, node_config: dict[str, str | int], run_config: dict[str, object]
    ) -> Node:
        context = Context(RUN, number, dict(node_config), RecordDict(), dict(run_config))  # type: ignore[arg-type]
        self.nodes[number] = Node(app, context)
        return self.nodes[number]

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=number, public_key=self.keys.get(number, b"")) for number in self.nodes]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        taken = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid4().hex
            if message.metadata.dst_node_id in self.nodes:
                self._waiting[message.metadata.message_id] = message_to_proto(message).SerializeToString()
                self.sent.append(message)
                taken.append(message.metadata.message_id)
        return taken

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        # The last first: whoever relies on the order of replies is found out.
        replies = [self._reply(number) for number in reversed(list(message_ids)) if number in self._waiting]
        return [reply for reply in replies if reply is not None]

    def _reply(self, number: str) -> Message | None:
        message = parsed(self._waiting[number])
        node = self.nodes.get(message.metadata.dst_node_id)
        if node is None:
            return None
        TaskIdentity.node_id = message.metadata.dst_node_id
        try:
            reply = node.app(message, node.context)
        except Exception as error:  # as Flower's run_clientapp does
            reply = Message(Error(code=2, reason=str(error)), reply_to=message)
        behaved = node.behave(message, reply)
        if behaved is None:
            return None
        del self._waiting[number]
        behaved.metadata.__dict__["_message_id"] = uuid4().hex
        return parsed(message_to_proto(behaved).SerializeToString())


def parsed(data: bytes) -> Message:
    from flwr.proto.message_pb2 import Message as Proto

    return message_from_proto(Proto.FromString(data))


def identify() -> None:
    """Make this process a ServerApp's in the eyes of Flower."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
