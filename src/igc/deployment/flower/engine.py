"""The engine over Flower's grid: bytes to the nodes, bytes back, in the order of requests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, final

from flwr.app import Message, MessageType

from igc.deployment.events import Tell
from igc.deployment.flower.roll import Carrier, Roll
from igc.deployment.flower.wire import (
    UNREADABLE,
    Answer,
    Order,
    WireError,
    pack_order,
    printable,
    unpack_answers,
)
from igc.errors import TrainingError
from igc.federation import Dropout, Reply, Request
from igc.federation.engine import ABSENT, DROPPED

# Flower's own errors that say: nobody answered (ErrorCode of flwr.common.constant).
SILENCE: Final = {3: "message unavailable", 4: "reply unavailable", 5: "node unavailable"}
# A message outlives its deadline by so much, the more of both: clocks differ, and sums take time.
SPARE_S: Final = 5.0
SPARE: Final = 0.1


class _Parcel(NamedTuple):
    """What a node was sent in one message, and has not answered.

    Attributes:
        message: its id.
        node: the node's.
        clients: who is asked.
        due: when the deadline is over for it; the SuperLink keeps it no shorter.
    """

    message: str
    node: int
    clients: tuple[str, ...]
    due: float


@final
class FlowerEngine:
    """Carries a round's requests to the nodes that have the clients' data.

    Replies come in the order of requests, whoever was first: sums are then the same, bit for bit, on every engine. A
    message is fetched when the first of its clients has its turn, and an answer is let go of once it is passed on: all that
    is held came in one message with an answer whose turn it was.
    A client's NaN never stops the training here: its reply is left out, whatever ``federation.non_finite`` says.

    Args:
        grid: Flower's.
        roll: knows which node has whose data.
        session: names the run, over all its resumptions.
        dropout: which clients are to be silent by the recipe; they are not troubled.
        deadline: seconds for an exchange; who answers later has not answered.
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
        parcels = self._send(round, [request for request in requests if request.client not in silent])
        parcel_of = {client: parcel for parcel in parcels for client in parcel.clients}
        pending = {parcel.message: parcel for parcel in parcels}
        answers: dict[str, Answer] = {}
        end = time.monotonic() + self._deadline
        for request in requests:
            client = request.client
            if client in silent:
                yield Reply(client, request.position, None, DROPPED)
            elif client not in parcel_of:
                yield Reply(client, request.position, None, ABSENT)
            else:
                self._wait_for(round, parcel_of[client], pending, answers, end)
                answer = answers.pop(client, Answer(None, DROPPED))
                yield Reply(client, request.position, answer.payload, answer.error)

    def close(self) -> None:
        """Nothing to let go of: the grid is Flower's."""

    def _send(self, round: int, requests: Sequence[Request]) -> list[_Parcel]:
        """Send to the nodes that have the clients, one after the other."""
        clients = [request.client for request in requests]
        if not clients:
            return []
        self._roll.refresh(clients, self._patience)
        if not self._roll.node_of.keys() & set(clients) and not self._roll.wait_for(
            clients, 1, self._patience, round=round + 1
        ):
            raise TrainingError(
                f"round {round + 1}: none of its {len(clients)} clients came within {self._patience:g} s; start their"
                " SuperNodes, then run the app again: it goes on after the last complete round"
            )
        parts: dict[int, list[Request]] = {}  # node -> requests to it, both in the order of requests
        node_of = self._roll.node_of
        for request in requests:
            if request.client in node_of:
                parts.setdefault(node_of[request.client], []).append(request)
        ttl = self._deadline + max(SPARE_S, SPARE * self._deadline)
        parcels = []
        for node, part in parts.items():
            names = tuple(request.client for request in part)
            order = Order(self._session, round, names, tuple(request.payload for request in part))
            message = Message(pack_order(order), node, MessageType.TRAIN, ttl=ttl, group_id=str(round + 1))
            taken = set(self._grid.push_messages([message]))  # which gives the message its id
            if message.metadata.message_id in taken:
                parcels.append(_Parcel(message.metadata.message_id, node, names, time.monotonic() + self._deadline))
            else:
                self._tell("not-sent", round=round + 1, node=node, clients=list(names))
        return parcels

    def _wait_for(
        self, round: int, parcel: _Parcel, pending: dict[str, _Parcel], answers: dict[str, Answer], end: float
    ) -> None:
        """Until a parcel is answered, or, at the end of the deadline, all that are not are late."""
        while parcel.message in pending:
            late = time.monotonic() >= end
            self._receive(round, list(pending) if late else [parcel.message], pending, answers)
            if late:
                for other in pending.values():
                    self._tell("late", round=round + 1, node=other.node, clients=list(other.clients))
                    self._roll.doubt(other.node)
                pending.clear()
            elif parcel.message in pending:
                time.sleep(self._poll)

    def _receive(
        self, round: int, messages: Sequence[str], pending: dict[str, _Parcel], answers: dict[str, Answer]
    ) -> None:
        """Take what has come of some messages, off ``pending`` and into ``answers``."""
        for reply in self._grid.pull_messages(messages):
            parcel = pending.pop(reply.metadata.reply_to_message_id, None)
            if parcel is None:
                continue
            asked, node = parcel.clients, parcel.node
            if reply.has_error():
                answers.update(dict.fromkeys(asked, Answer(None, self._failure(round, parcel, reply))))
                continue
            self._roll.trust(node)
            try:
                found = unpack_answers(reply.content, asked)
            except WireError as error:
                found = dict.fromkeys(asked, Answer(None, f"its node's answer cannot be read: {error}"))
            answers.update(dict.fromkeys(asked, Answer(None, "its node answered without it")) | found)

    def _failure(self, round: int, parcel: _Parcel, reply: Message) -> str:
        """What a reply that is an error makes of its clients' answers."""
        code, reason = reply.error.code, printable(reply.error.reason or "")
        self._tell(
            "node-error", round=round + 1, node=parcel.node, clients=list(parcel.clients), code=code, reason=reason
        )
        if self._is_silence(parcel, reply):
            self._roll.doubt(parcel.node)
            return DROPPED
        if code == UNREADABLE:
            return f"its node's answer cannot be read: {reason}"
        return f"its node failed: {reason or f'Flower error {code}'}"

    def _is_silence(self, parcel: _Parcel, reply: Message) -> bool:
        """Whether nobody answered.

        That is the SuperLink's to say; but a node can write any code, and the SuperLink's name for a sender: Flower takes
        both from the reply's own bytes. So it counts where it is known to be true: of a node that has left, of a message
        that has had its time, and where Flower's grid made the error itself of a reply that never came whole. All that
        did come have an id, a SHA-256.
        """
        if reply.error.code not in SILENCE:
            return False
        return not reply.metadata.message_id or time.monotonic() >= parcel.due or self._roll.has_left(parcel.node)
