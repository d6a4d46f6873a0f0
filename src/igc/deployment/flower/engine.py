"""The engine over Flower's grid: bytes to the nodes, bytes back, in the order of requests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, final

from flwr.app import Message, MessageType

from igc.deployment.events import Tell
from igc.deployment.flower.roll import Carrier, Roll
from igc.deployment.flower.wire import Answer, Order, WireError, pack_order, printable, unpack_answers
from igc.errors import TrainingError
from igc.federation import Dropout, Reply, Request
from igc.federation.engine import ABSENT, DROPPED

# Flower's own errors that say: nobody answered (ErrorCode of flwr.common.constant).
SILENCE: Final = {3: "message unavailable", 4: "reply unavailable", 5: "node unavailable"}
SPARE_S: Final = 5.0  # a message outlives its deadline by so much, for clocks that differ


@final
class FlowerEngine:
    """Carries a round's requests to the nodes that have the clients' data.

    Replies come in the order of requests, whoever was first: sums are then the same, bit for bit, on every engine.
    A client's NaN never stops the training here: its reply is left out, whatever ``federation.non_finite`` says.

    Args:
        grid: Flower's.
        roll: knows which node has whose data.
        session: names the run, over all its resumptions.
        dropout: which clients are to be silent by the recipe; they are not troubled.
        deadline: seconds for a round; who answers later has not answered.
        patience: seconds to wait for a round's clients where none of them is there.
        tell: is told what goes wrong.
        poll: seconds between two looks for replies.
    """

    def __init__(
        self,
        grid: Carrier,
        roll: Roll,
        session: str,
        dropout: Dropout,
        *,
        deadline: float,
        patience: float,
        tell: Tell,
        poll: float = 1.0,
    ) -> None:
        self._grid = grid
        self._roll = roll
        self._session = session
        self._dropout = dropout
        self._deadline = deadline
        self._patience = patience
        self._tell = tell
        self._poll = poll
        self.memories: dict[str, Any] = {}  # nodes keep them

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply for each request, in order, each as soon as it is its turn.

        Raises:
            TrainingError: none of the clients came within the engine's patience.
        """
        silent = {r.client for r in requests if self._dropout.drops(round, r.position)}
        pending, node_of = self._send(round, [request for request in requests if request.client not in silent])
        answers: dict[str, Answer] = {}
        end = time.monotonic() + self._deadline
        for request in requests:
            client = request.client
            if client in silent:
                yield Reply(client, request.position, None, DROPPED)
                continue
            if client not in node_of:
                yield Reply(client, request.position, None, ABSENT)
                continue
            while client not in answers and pending:
                self._receive(round, pending, answers, node_of)
                if client in answers or not pending:
                    break
                if time.monotonic() >= end:
                    for clients in pending.values():
                        self._tell("late", round=round + 1, node=node_of[clients[0]], clients=list(clients))
                        self._roll.doubt(node_of[clients[0]])
                    pending.clear()
                else:
                    time.sleep(self._poll)
            answer = answers.get(client, Answer(None, DROPPED))
            yield Reply(client, request.position, answer.payload, answer.error)

    def close(self) -> None:
        """Nothing to let go of: the grid is Flower's."""

    def _send(self, round: int, requests: Sequence[Request]) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
        """Send; returns message -> whose answers are due to it, and client -> node of those who were sent something."""
        clients = [request.client for request in requests]
        if not clients:
            return {}, {}
        self._roll.refresh(clients, self._patience)
        if not self._roll.node_of.keys() & set(clients):
            self._tell("waiting", round=round + 1, clients=clients)
            if not self._roll.wait_for(clients, 1, self._patience):
                raise TrainingError(
                    f"round {round + 1}: none of its {len(clients)} clients came within {self._patience:g} s; start their"
                    " SuperNodes, then run the app again: it goes on after the last complete round"
                )
        known = self._roll.node_of
        node_of = {client: known[client] for client in clients if client in known}
        messages = []
        parts: list[list[Request]] = []
        for node in dict.fromkeys(node_of.values()):  # in the order of requests
            part = [request for request in requests if node_of.get(request.client) == node]
            order = Order(self._session, round, tuple(r.client for r in part), tuple(r.payload for r in part))
            ttl = self._deadline + SPARE_S
            messages.append(Message(pack_order(order), node, MessageType.TRAIN, ttl=ttl, group_id=str(round + 1)))
            parts.append(part)
        accepted = set(self._grid.push_messages(messages))
        pending = {}
        for message, part in zip(messages, parts, strict=True):
            names = tuple(request.client for request in part)
            if message.metadata.message_id in accepted:
                pending[message.metadata.message_id] = names
            else:
                self._tell("not-sent", round=round + 1, node=message.metadata.dst_node_id, clients=list(names))
                for name in names:
                    del node_of[name]
        return pending, node_of

    def _receive(
        self, round: int, pending: dict[str, tuple[str, ...]], answers: dict[str, Answer], node_of: dict[str, int]
    ) -> None:
        """Take what has come, off ``pending`` and into ``answers``."""
        for reply in self._grid.pull_messages(list(pending)):
            asked = pending.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            node = node_of[asked[0]]
            if reply.has_error():
                code, reason = reply.error.code, printable(reply.error.reason or "")
                self._tell("node-error", round=round + 1, node=node, clients=list(asked), code=code, reason=reason)
                if code in SILENCE:
                    self._roll.doubt(node)
                error = DROPPED if code in SILENCE else f"its node failed: {reason or f'Flower error {code}'}"
                answers.update(dict.fromkeys(asked, Answer(None, error)))
                continue
            self._roll.trust(node)
            try:
                found = unpack_answers(reply.content, asked)
            except WireError as error:
                found = dict.fromkeys(asked, Answer(None, f"its node's answer cannot be read: {error}"))
            answers.update(dict.fromkeys(asked, Answer(None, "its node answered without it")) | found)
