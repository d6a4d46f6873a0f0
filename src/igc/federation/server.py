"""The server: one round, from sampling to the new state, over any engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from igc.federation.aggregate import WeightedMean
from igc.federation.engine import ABSENT, DROPPED, MISSED, Engine, Reply, Request
from igc.federation.ledger import Ledger
from igc.federation.sampling import Sampler
from igc.messages import Agreement, Kind, Message, MessageError, TensorError, check_tensors, decode, encode
from igc.methods import Method, Turn


@dataclass(frozen=True)
class RoundResult:
    """What one round was.

    Attributes:
        round: counted from 0.
        loss: weighted mean of the clients' losses at the parameters of this round; None where no upload came.
        bytes_up: of uploads, refused ones included.
        bytes_down: of downloads.
        clients: uploads in the mean.
        dropped: clients that never answered, or could not be reached.
        rejected: client -> why its upload was left out.
        learning_rate: of the server's step.
        traffic: the ledger's lines of the round.
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


class Server:
    """Runs rounds of a method; all that it changes is its state, its ledger and the number of the next round.

    Args:
        method: the method.
        agreement: the server's side of it.
        sampler: who takes part.
        learning_rate: round -> the server optimizer's step size.
        weights: weigh clients by their number of predictions ("examples"), or equally ("uniform").
        from_change: count the rounds of ``learning_rate`` from the latest change of subspace.
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
    ) -> None:
        self.method = method
        self.state = method.init()
        self.round = 0
        self.ledger = Ledger()
        self._agreement = agreement
        self._sampler = sampler
        self._learning_rate = learning_rate
        self._weights = weights
        self._from_change = from_change

    def run_round(self, engine: Engine) -> RoundResult:
        """Sample, send, receive, check, aggregate, update."""
        number = self.round
        clients = self._sampler.sample(number)
        turns = {client: Turn(client, number, position, len(clients)) for position, client in enumerate(clients)}
        up, down = self.ledger.up, self.ledger.down
        mean = WeightedMean()
        dropped: list[str] = []
        rejected: dict[str, str] = {}
        requests = list(self._requests(turns.values()))
        for request, reply in zip(requests, engine.exchange(number, requests), strict=True):
            if reply.error != ABSENT:
                self.ledger.sent(request.client, request.payload)
            if reply.payload is not None:
                self.ledger.received(reply.client, reply.payload)
            if reply.error in (DROPPED, ABSENT):
                dropped.append(reply.client)
            elif reason := self._fold_in(mean, reply, turns[reply.client]):
                rejected[reply.client] = reason
            if reply.error == MISSED:
                self.state = self.method.forget(self.state, reply.client)
        means = mean.means()
        learning_rate = self._learning_rate(number - self.method.began(self.state) if self._from_change else number)
        self.state = self.method.update(self.state, means, number, learning_rate)
        self.round += 1
        return RoundResult(
            round=number,
            loss=None if means is None else means.loss,
            bytes_up=self.ledger.up - up,
            bytes_down=self.ledger.down - down,
            clients=0 if means is None else len(means.clients),
            dropped=tuple(dropped),
            rejected=rejected,
            learning_rate=learning_rate,
            traffic=self.ledger.close_round(number),
        )

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

    def _fold_in(self, mean: WeightedMean, reply: Reply, turn: Turn) -> str:
        """Add an upload to the mean; the reason, if it cannot be used."""
        if reply.payload is None:
            return reply.error
        try:
            upload = decode(reply.payload, self._agreement, Kind.UPLOAD, turn.round)
            check_tensors(upload, self.method.due())
            group = self.method.group(upload, turn)
            weight = int(upload["weight"])
            if weight < 1:
                raise TensorError(f"'weight' is {weight}; an upload stands for at least one prediction")
            vector = self.method.contribution(upload)
        except MessageError as error:
            return str(error)
        share = float(weight) if self._weights == "examples" else 1.0
        mean.add(reply.client, group, vector, share, float(upload["loss"]))
        return ""
