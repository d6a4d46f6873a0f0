"""Replies that the SuperLink takes and Flower's grid stumbles over, or that lie about where they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.superlink.grid.http_grid import HttpGrid

from igc.deployment.flower.engine import FlowerEngine
from igc.deployment.flower.roll import Roll
from igc.deployment.flower.timely import Timely
from igc.deployment.flower.wire import Answer, Presence, pack_answers, pack_presence
from igc.federation import Dropout, Reply, Request
from support.grid import RUN, identify

HOSTILE, HONEST = 100, 101  # nodes, with clients a and b

Objects = dict[str, bytes]
Forge = Callable[["Link", Message], tuple[str, Objects]]  # the object that is the reply, and all that there are


class Link:
    """The SuperLink's side of a ServerApp's grid; what it holds came from the nodes."""

    def __init__(self, forge: Forge, kind: str) -> None:
        self.forge, self.kind = forge, kind
        self.nodes = [HOSTILE, HONEST]
        self.sent: list[Message] = []
        self.objects: Objects = {}
        self.status = 200

    def GetNodes(self, request: Any) -> Any:  # noqa: N802
        return SimpleNamespace(nodes=[NodeInfo(node_id=node) for node in self.nodes])

    def PullMessages(self, request: Any) -> Any:  # noqa: N802
        found = [message for message in self.sent if message.metadata.message_id in request.message_ids]
        pairs = [self._reply(message) for message in found]
        return SimpleNamespace(messages_list=[p for p, _ in pairs], message_object_trees=[t for _, t in pairs])

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        content = self.objects.get(request.object_id)
        return SimpleNamespace(object_found=content is not None, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None: ...  # noqa: N802

    def _reply(self, message: Message) -> tuple[Any, ObjectTree]:
        self.sent.remove(message)
        hostile = message.metadata.dst_node_id == HOSTILE and message.metadata.message_type == self.kind
        if hostile and self.status != 200:
            request = httpx.Request("POST", "http://superlink")
            raise httpx.HTTPStatusError("no", request=request, response=httpx.Response(self.status, request=request))
        name, objects = self.forge(self, message) if hostile else deflated(honest(message))
        self.objects |= objects
        proto = message_to_proto(Message(Error(0), reply_to=message))  # what the SuperLink has checked
        proto.metadata.message_id = name
        return proto, ObjectTree(object_id=name, children=[ObjectTree(object_id=k) for k in objects if k != name])


class Grid(HttpGrid):
    """Flower's own, over a `Link`."""

    def __init__(self, link: Link) -> None:
        super().__init__(token="t")
        self.link = link
        stand_ins: Any = self
        stand_ins._client, stand_ins._run = link, SimpleNamespace(run_id=RUN)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.link.sent.append(message)
        return [message.metadata.message_id for message in messages]


def honest(message: Message) -> Message:
    client = "a" if message.metadata.dst_node_id == HOSTILE else "b"
    if message.metadata.message_type == "query":
        return reply(message, pack_presence(Presence((client,), "1")))
    return reply(message, pack_answers({client: Answer(b"upload")}))


def reply(message: Message, what: RecordDict | Error) -> Message:
    return Message(what, reply_to=message)


def deflated(message: Message) -> tuple[str, Objects]:
    return message.object_id, {name: found.deflate() for name, found in get_all_nested_objects(message).items()}


def made(kind: str, children: Iterable[str], body: bytes) -> tuple[str, Objects]:
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body
    return get_object_id(content), {get_object_id(content): content}


def body(message: Message) -> bytes:
    return message.deflate().partition(b"\0")[2]


def no_protobuf(link: Link, message: Message) -> tuple[str, Objects]:
    record, objects = made("ConfigRecord", [], b"\xff" * 4)
    return around(message, "RecordDict", record, objects)


def around(message: Message, kind: str, child: str, objects: Objects) -> tuple[str, Objects]:
    """A reply whose content is a RecordDict with one record, or something else."""
    inner = body(honest(message).content) if kind == "RecordDict" else b""  # type: ignore[arg-type]
    content, parts = made(kind, [child], inner)
    name, reply_parts = made("Message", [content], body(honest(message)))
    return name, objects | parts | reply_parts


def neither(link: Link, message: Message) -> tuple[str, Objects]:
    return made("Message", [], body(honest(message)))


def no_message(link: Link, message: Message) -> tuple[str, Objects]:
    return made("ConfigRecord", [], b"")


def message_in_a_message(link: Link, message: Message) -> tuple[str, Objects]:
    inner, objects = deflated(honest(message))
    name, parts = made("Message", [inner], body(honest(message)))
    return name, objects | parts


def unknown_kind(link: Link, message: Message) -> tuple[str, Objects]:
    return made("Surprise", [], b"")


def anothers(link: Link, message: Message) -> tuple[str, Objects]:
    """In the name of the other node, as an answer to what it was asked."""
    (theirs,) = [other for other in link.sent if other.metadata.dst_node_id == HONEST]
    return deflated(reply(theirs, pack_answers({"b": Answer(b"forged")})))


def go(link: Link, deadline: float = 60.0) -> tuple[dict[str, Reply], list[dict[str, Any]]]:
    """A roll call and an exchange: client -> reply, and what was told."""
    identify()
    told: list[dict[str, Any]] = []

    def tell(event: str, **facts: Any) -> None:
        told.append({"event": event, **facts})

    grid = Timely(Grid(link))
    roll = Roll(grid, ("a", "b"), tell, 0.01)
    engine = FlowerEngine(grid, roll, "s", Dropout(0.0, 0), deadline=deadline, patience=5, tell=tell, poll=0.01)
    replies = engine.exchange(0, [Request("a", 0, b"download"), Request("b", 1, b"download")])
    return {reply.client: reply for reply in replies}, told


UNREADABLE = [no_protobuf, neither, no_message, message_in_a_message, unknown_kind]


@pytest.mark.parametrize("forge", UNREADABLE, ids=lambda forge: forge.__name__)
def test_a_reply_that_cannot_be_read_costs_its_node_its_own_clients(forge: Forge) -> None:
    replies, told = go(Link(forge, "train"))
    assert replies["b"].payload == b"upload"
    assert replies["a"].payload is None
    assert replies["a"].error.startswith("its node's answer cannot be read: ")
    assert [(event["node"], event["clients"]) for event in told if event["event"] == "node-error"] == [(HOSTILE, ["a"])]


@pytest.mark.parametrize("forge", UNREADABLE, ids=lambda forge: forge.__name__)
def test_an_answer_to_the_roll_call_that_cannot_be_read_is_a_node_that_failed(forge: Forge) -> None:
    replies, told = go(Link(forge, "query"))
    assert (replies["a"].error, replies["b"].payload) == ("absent", b"upload")
    (failed,) = [event for event in told if event["event"] == "node-failed"]
    assert failed["node"] == HOSTILE and failed["reason"].startswith("its answer cannot be read: ")


def test_a_node_cannot_answer_a_message_to_another() -> None:
    replies, _ = go(Link(anothers, "train"))
    assert replies["b"].payload == b"upload"
    assert replies["a"].error == "its node answered without it"


def test_a_node_cannot_answer_the_roll_call_of_another() -> None:
    def theirs(link: Link, message: Message) -> tuple[str, Objects]:
        (other,) = [other for other in link.sent if other.metadata.dst_node_id == HONEST]
        return deflated(reply(other, pack_presence(Presence(("a",), "1"))))

    replies, told = go(Link(theirs, "query"))
    assert {event["node"]: event["clients"] for event in told if event["event"] == "node-joined"} == {
        HOSTILE: 1,
        HONEST: 1,
    }
    assert replies["b"].payload == b"upload"


def in_the_superlinks_name(code: int) -> Forge:
    def forge(link: Link, message: Message) -> tuple[str, Objects]:
        forged = reply(message, Error(code, "nobody is here"))
        forged.metadata.__dict__["_src_node_id"] = 1
        return deflated(forged)

    return forge


@pytest.mark.parametrize("code", [3, 4, 5])
def test_a_node_that_is_there_cannot_say_in_the_superlinks_name_that_it_is_not(code: int) -> None:
    replies, _ = go(Link(in_the_superlinks_name(code), "train"))
    assert (replies["a"].error, replies["b"].payload) == ("its node failed: nobody is here", b"upload")


def test_of_a_node_that_left_the_superlinks_word_counts() -> None:
    def leave(link: Link, message: Message) -> tuple[str, Objects]:
        link.nodes.remove(HOSTILE)
        return in_the_superlinks_name(5)(link, message)

    replies, _ = go(Link(leave, "train"))
    assert (replies["a"].error, replies["b"].payload) == ("dropped", b"upload")


def test_of_a_message_that_has_had_its_time_the_superlinks_word_counts() -> None:
    replies, _ = go(Link(in_the_superlinks_name(3), "train"), deadline=0.0)
    assert replies["a"].error == "dropped"


def test_a_reply_that_never_came_whole_is_none() -> None:
    def cut(link: Link, message: Message) -> tuple[str, Objects]:
        name, objects = deflated(honest(message))
        return name, objects | {"0" * 64: b""}

    link = Link(cut, "train")
    link.PullObject = lambda request: (  # type: ignore[method-assign]
        SimpleNamespace(object_found=False) if request.object_id == "0" * 64 else Link.PullObject(link, request)
    )
    replies, _ = go(link)
    assert (replies["a"].error, replies["b"].payload) == ("dropped", b"upload")


def test_a_reply_over_which_the_superlink_stumbles_is_its_nodes_doing() -> None:
    link = Link(no_message, "train")
    link.status = 500
    replies, _ = go(link)
    assert replies["a"].error.startswith("its node's answer cannot be read: HTTPStatusError")
    assert replies["b"].payload == b"upload"


def test_a_superlink_that_cannot_be_reached_ends_the_run() -> None:
    link = Link(no_message, "train")
    link.status = 503
    with pytest.raises(httpx.HTTPStatusError):
        go(link)
