"""Our requests and replies inside Flower's messages: payloads stay the bytes that they are.

One Flower message carries all that a node's clients are asked in a round, since each message costs a process there:

    record "igc"    session, round, clients, payloads          to a node
    record "igc"    clients, payloads, errors                  from it
    record "igc"    clients, igc                               from it, at a roll call
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from flwr.app import ConfigRecord, RecordDict

from igc.errors import IgcError
from igc.federation.engine import MISSED

RECORD: Final = "igc"
MAX_ERROR: Final = 500  # characters of a client's words that are kept
UNREADABLE: Final = -1  # in place of Flower's error codes: a reply that is no message


class WireError(IgcError):
    """A Flower message that igc did not write."""


class Order(NamedTuple):
    """What a node's clients are asked in a round.

    Attributes:
        session: names the run, over all its resumptions.
        round: counted from 0.
        clients: who is asked.
        payloads: the download of each.
    """

    session: str
    round: int
    clients: tuple[str, ...]
    payloads: tuple[bytes, ...]


class Answer(NamedTuple):
    """What one client says: an upload, or why there is none."""

    payload: bytes | None
    error: str = ""


class Presence(NamedTuple):
    """What a node says at a roll call: the clients whose data it has, and its version of igc."""

    clients: tuple[str, ...]
    igc: str


def pack_order(order: Order) -> RecordDict:
    """An order as a message's content."""
    record = {
        "session": order.session,
        "round": order.round,
        "clients": list(order.clients),
        "payloads": list(order.payloads),
    }
    return RecordDict({RECORD: ConfigRecord(record)})  # type: ignore[arg-type]


def unpack_order(content: RecordDict) -> Order:
    """The order in a message's content.

    Raises:
        WireError: there is none, or it is ill-formed.
    """
    record = _record(content)
    clients, payloads = _texts(record, "clients"), _many_bytes(record, "payloads")
    if len(payloads) != len(clients):
        raise WireError(f"{len(payloads)} payloads for {len(clients)} clients")
    round = record.get("round")
    if not isinstance(round, int) or round < 0:
        raise WireError(f"round {round!r}")
    return Order(_text(record, "session"), round, clients, payloads)


def pack_answers(answers: dict[str, Answer]) -> RecordDict:
    """Client -> its answer, as a message's content."""
    record = {
        "clients": list(answers),
        "payloads": [answer.payload or b"" for answer in answers.values()],
        "errors": [answer.error for answer in answers.values()],
    }
    return RecordDict({RECORD: ConfigRecord(record)})  # type: ignore[arg-type]


def unpack_answers(content: RecordDict, asked: Sequence[str]) -> dict[str, Answer]:
    """Client -> its answer, of those who were asked; what a node says for others does not count.

    Of the words by which an engine tells the server what became of a request, a client may say "missed" alone; whatever
    else it gives for a reason is quoted, so that it never passes for "absent" or "dropped".

    Raises:
        WireError: the content is ill-formed.
    """
    record = _record(content)
    clients, payloads, errors = _texts(record, "clients"), _many_bytes(record, "payloads"), _texts(record, "errors")
    if not len(clients) == len(payloads) == len(errors):
        raise WireError(f"{len(payloads)} payloads and {len(errors)} errors for {len(clients)} clients")
    if len(set(clients)) < len(clients):
        raise WireError("a client answers twice")
    found, due = {}, frozenset(asked)
    for client, payload, error in zip(clients, payloads, errors, strict=True):
        if client in due:
            found[client] = Answer(None, _quoted(error)) if error else Answer(payload)
    return found


def pack_presence(presence: Presence) -> RecordDict:
    """A node's answer to a roll call, as a message's content."""
    return RecordDict({RECORD: ConfigRecord({"clients": list(presence.clients), "igc": presence.igc})})


def unpack_presence(content: RecordDict) -> Presence:
    """A node's answer to a roll call.

    Raises:
        WireError: the content is ill-formed.
    """
    record = _record(content)
    return Presence(_texts(record, "clients"), printable(_text(record, "igc")))


def printable(text: str) -> str:
    """Somebody else's words, cut to length and safe to print."""
    shown = "".join(c if c.isprintable() else " " for c in text[: MAX_ERROR + 1])
    return shown if len(shown) <= MAX_ERROR else shown[:MAX_ERROR] + "..."


def _quoted(error: str) -> str:
    return error if error == MISSED else f"its node says: {printable(error)}"


def _record(content: RecordDict) -> ConfigRecord:
    record = content.get(RECORD)
    if not isinstance(record, ConfigRecord):
        raise WireError(f"no record '{RECORD}' of settings")
    return record


def _text(record: ConfigRecord, key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise WireError(f"'{key}' is no text")
    return value


def _texts(record: ConfigRecord, key: str) -> tuple[str, ...]:
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise WireError(f"'{key}' is no list of texts")
    return tuple(str(item) for item in value)


def _many_bytes(record: ConfigRecord, key: str) -> tuple[bytes, ...]:
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, bytes) for item in value):
        raise WireError(f"'{key}' is no list of bytes")
    return tuple(item for item in value if isinstance(item, bytes))
