"""A node that announces a reply and does not deliver it keeps nobody waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from igc.deployment.flower.timely import Timely
from support.grid import identify


class Stuck:
    """A grid that delivers the replies to some messages when it is told to."""

    def __init__(self, *stuck: str) -> None:
        self.stuck = stuck
        self.go = threading.Event()
        self.asked: list[str] = []

    def get_nodes(self) -> list[Any]:
        return []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        (name,) = message_ids
        self.asked.append(name)
        if name == "broken":
            raise ConnectionError("the SuperLink is gone")
        if name in self.stuck:
            self.go.wait(60)
        return [reply_to(name)] if name != "unanswered" else []


def reply_to(name: str) -> Message:
    """The reply to a message; it does not say that it is one to that."""
    identify()
    message = Message(RecordDict(), 2, "train", group_id=name)
    return Message(RecordDict(), reply_to=message)


def names(replies: Iterable[Message]) -> list[str]:
    found = [(reply.metadata.group_id, reply.metadata.reply_to_message_id) for reply in replies]
    assert all(meant == said for meant, said in found)
    return [said for _, said in found]


def test_replies_that_are_there_do_not_wait_for_one_that_is_not() -> None:
    grid = Stuck("b")
    timely: Any = Timely(grid, wait=0.3)
    began = time.monotonic()
    assert names(timely.pull_messages(["a", "b", "c", "unanswered"])) == ["a", "c"]
    assert list(timely.pull_messages(["b"])) == []
    assert time.monotonic() - began < 5
    grid.go.set()
    while not (found := list(timely.pull_messages(["b"]))):
        assert time.monotonic() - began < 30
    assert names(found) == ["b"]
    assert grid.asked.count("b") == 1  # fetched once, however often it was looked for
    assert list(timely.pull_messages(["unanswered"])) == []
    assert grid.asked.count("unanswered") == 2


def test_what_goes_wrong_in_between_is_raised() -> None:
    with pytest.raises(ConnectionError, match="SuperLink is gone"):
        Timely(Stuck()).pull_messages(["broken"])
