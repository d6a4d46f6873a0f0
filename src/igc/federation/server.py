"""The server: one round, from sampling to the new state, over any engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

from igc.federation.aggregate import Aggregation, SkippedRoundError
from igc.federation.engine import ABSENT, DROPPED, MISSED, Engine, Reply, Request
from igc.federation.ledger import Ledger
from igc.federation.protection import UNPROTECTED, Protection
from igc.federation.sampling import Sampler
from igc.messages import Agreement, Kind, Message, MessageError, TensorError, check_tensors, decode, encode
from igc.methods import Means, Method, Turn

Carry = Callable[[Sequence[Request]], Iterator[Reply]]


@dataclass(frozen=True)
class RoundResult:
    """What one round was.

    Attributes:
        round: counted from 0.
        loss: weighted mean of the clients' losses at the parameters of this round; None where no upload came, and under
            differential privacy.
        bytes_up: of uploads, refused ones included.
        bytes_down: of downloads.
        clients: uploads in the mean.
        dropped: clients that never answered, or could not be reached.
        rejected: client -> why its upload was left out.
        learning_rate: of the server's step.
        traffic: the ledger's lines of the round.
        asked: clients that were sampled.
        clipped: clients whose uploads the server had to cut to the norm bound, or to the largest weight.
        skipped: why no step was taken although uploads came; empty: one was, or none came.
    """

    round: int
    loss: float | None
    bytes_up: int
    bytes_down: int
    clients: int
    dropped: tuple[str, ...]
    rejected: dict[str, str]
    learning_rate: float
    traffic: dict[str, Any]
    asked: int
    clipped: tuple[str, ...] = ()
    skipped: str = ""


class Server:
    """Runs rounds of a method; all that it changes is its state, its ledger and the number of the next round.

    Args:
        method: the method.
        agreement: the server's side of it.
        sampler: who takes part.
        learning_rate: round -> the server optimizer's step size.
        weights: weigh clients by their number of predictions ("examples"), or equally ("uniform").
        from_change: count the rounds of ``learning_rate`` from the latest change of subspace.
        protection: what is done around the mean.
    """

    def __init__(
        self,
        method: Method[Any, Any],
        agreement: Agreement,
        sampler: Sampler,
        learning_rate: Callable[[int], float],
        weights: Literal["examples", "uniform"] = "examples",
        *,
        from_change: bool = False,
        protection: Protection = UNPROTECTED,
    ) -> None:
        self.method = method
        self.state = method.init()
        self.round = 0
        self.ledger = Ledger()
        self.protection = protection
        self._agreement = agreement
        self._sampler = sampler
        self._learning_rate = learning_rate
        self._weights = weights
        self._from_change = from_change

    def cohort(self, round: int) -> list[str]:
        """The clients of a round."""
        return self._sampler.sample(round)

    def run_round(self, engine: Engine) -> RoundResult:
        """Sample, send, receive, check, aggregate, update."""
        number = self.round
        clients = self.cohort(number)
        before = self._sampler.before(number)
        turns = {client: Turn(client, number, position, before) for position, client in enumerate(clients)}
        up, down = self.ledger.up, self.ledger.down
        tally = _Tally()
        carry = partial(self._carry, engine, number, tally)
        collect = self._collect if self.protection.secure is None else self._collect_securely
        means, skipped = None, ""
        try:
            means = self.protection.on_means(collect(turns, carry, tally), number)
        except SkippedRoundError as error:
            skipped = str(error)
        learning_rate = self._learning_rate(number - self.method.began(self.state) if self._from_change else number)
        self.state = self.method.update(self.state, means, number, learning_rate)
        self.round += 1
        return RoundResult(
            round=number,
            loss=None if means is None or self.protection.withholds_loss else means.loss,
            bytes_up=self.ledger.up - up,
            bytes_down=self.ledger.down - down,
            clients=0 if means is None else len(means.clients),
            dropped=tuple(tally.dropped),
            rejected=tally.rejected,
            learning_rate=learning_rate,
            traffic=self.ledger.close_round(number),
            asked=len(clients),
            clipped=tuple(tally.clipped),
            skipped=skipped,
        )

    def _carry(self, engine: Engine, round: int, tally: _Tally, requests: Sequence[Request]) -> Iterator[Reply]:
        """Exchange, and keep the ledger; yields the replies that came with a payload."""
        for request, reply in zip(requests, engine.exchange(round, requests), strict=True):
            if reply.error != ABSENT:
                self.ledger.sent(request.client, request.payload)
            if reply.payload is not None:
                self.ledger.received(reply.client, reply.payload)
                yield reply
            elif reply.error in (DROPPED, ABSENT):
                tally.dropped.append(reply.client)
            else:
                tally.rejected[reply.client] = reply.error
            if reply.error == MISSED:
                self.state = self.method.forget(self.state, reply.client)

    def _collect(self, turns: Mapping[str, Turn], carry: Carry, tally: _Tally) -> Means | None:
        """The means of uploads that the server sees one by one."""
        aggregation = self.protection.aggregation()
        for reply in carry(list(self._requests(turns.values()))):
            if reason := self._fold_in(aggregation, reply, turns[reply.client], tally):
                tally.rejected[reply.client] = reason
        return aggregation.means()

    def _collect_securely(self, turns: Mapping[str, Turn], carry: Carry, tally: _Tally) -> Means | None:
        """The means of uploads of which the server sees the sums."""
        from igc.federation.secure.server import SecureRound  # noqa: PLC0415 (the extra `secure`)

        assert self.protection.secure is not None
        groups: dict[int, list[Turn]] = {}
        for turn in turns.values():
            # Downloads name a client's subspace by the name under which uploads do.
            named = Message(Kind.UPLOAD, turn.round, self.method.download(self.state, turn))
            groups.setdefault(self.method.group(named, turn), []).append(turn)
        secure_round = SecureRound(
            self.protection.secure,
            self.protection.reach,
            None if self.protection.bound is None or self.protection.local else self.protection.bound.limit,
            self.method.due_in(self.state)["sketch"].shape[0],
            self._agreement,
            carry,
            tally.rejected.__setitem__,
        )
        return secure_round.means(groups, lambda turn: self.method.download(self.state, turn))

    def _requests(self, turns: Iterable[Turn]) -> Iterator[Request]:
        sent: dict[str, Tensor] = {}
        payload = b""
        for turn in turns:
            tensors = self.method.download(self.state, turn)
            # Where a method sends everybody the same, as static ones do, it is encoded once.
            if tensors.keys() != sent.keys() or any(tensors[name] is not sent[name] for name in sent):
                payload = encode(Message(Kind.DOWNLOAD, turn.round, tensors), self._agreement)
                sent = tensors
            yield Request(turn.client, turn.position, payload)

    def _fold_in(self, aggregation: Aggregation, reply: Reply, turn: Turn, tally: _Tally) -> str:
        """Add an upload to the mean; the reason, if it cannot be used."""
        assert reply.payload is not None
        try:
            due = self.method.due_in(self.state)
            upload = decode(reply.payload, self._agreement, Kind.UPLOAD, turn.round, due)
            check_tensors(upload, due)
            group = self.method.group(upload, turn)
            claimed = int(upload["weight"])
            if claimed < 1:
                raise TensorError(f"'weight' is {claimed}; an upload stands for at least one prediction")
            vector, weight, cut = self.protection.admit(self.method.contribution(upload), claimed)
        except MessageError as error:
            return str(error)
        if cut:
            tally.clipped.append(reply.client)
        share = float(weight) if self._weights == "examples" else 1.0
        aggregation.add(reply.client, group, vector, share, float(upload["loss"]))
        return ""


@dataclass
class _Tally:
    """Who did not answer, whose answer was left out and why, and whose was cut to the bound."""

    dropped: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    clipped: list[str] = field(default_factory=list)
