"""The in-process engine: every client in this process, one after the other, on one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

from torch import Tensor

from igc.federation.client import respond
from igc.federation.engine import DROPPED, MISSED, Reply, Request
from igc.federation.sampling import Dropout
from igc.federation.worker import NonFiniteError, Workplace
from igc.messages import Agreement
from igc.methods import Method, MissedError, Worker
from igc.records import from_tree, to_tree


class InProcess:
    """Answers requests with the same `respond` as a deployed client.

    Args:
        method: the method.
        agreement: the clients' side of it.
        workplace: model and data.
        dropout: which clients never answer.
        non_finite: what a client's NaN or infinite loss does: "stop" the training, or "skip" the upload.
    """

    def __init__(
        self,
        method: Method[Any, Any],
        agreement: Agreement,
        workplace: Workplace,
        dropout: Dropout,
        non_finite: Literal["skip", "stop"] = "stop",
    ) -> None:
        self._method = method
        self._agreement = agreement
        self._workplace = workplace
        self._dropout = dropout
        self._non_finite = non_finite
        self._pool: WeakValueDictionary[str, Tensor] = WeakValueDictionary()  # of what some memory still holds
        self.memories: dict[str, Any] = {}

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply for each request, in order.

        Raises:
            NonFiniteError: a client's loss is not finite and the policy is "stop".
        """
        for request in requests:
            if self.drops(round, request.position):
                yield Reply(request.client, request.position, None, DROPPED)
            else:
                yield self.answer(request, partial(self._workplace.worker, request.client))

    def drops(self, round: int, position: int) -> bool:
        """Whether the client at this place of a round never answers."""
        return self._dropout.drops(round, position)

    def answer(self, request: Request, worker_for: Callable[[int], Worker]) -> Reply:
        """A client's reply, computed by a worker; what it remembers changes with it.

        Raises:
            NonFiniteError: the loss is not finite and the policy is "stop".
        """
        client, position = request.client, request.position
        try:
            memory, payload = self._respond(request, worker_for)
        except MissedError:
            return Reply(client, position, None, MISSED)
        except NonFiniteError as error:
            if self._non_finite == "stop":
                raise
            return Reply(client, position, None, str(error))
        self.memories[client] = self._shared(memory)
        return Reply(client, position, payload)

    def rehearse(self, request: Request, worker: Worker) -> None:
        """Go through a client's answer with another worker, to see what it asks of it; nothing is remembered.

        Raises:
            MissedError: the client lacks an epoch.
        """
        self._respond(request, lambda _: worker)

    def _respond(self, request: Request, worker_for: Callable[[int], Worker]) -> tuple[Any, bytes]:
        return respond(self._method, self._agreement, self.memories.get(request.client), request.payload, worker_for)

    def _shared(self, memory: Any) -> Any:
        """The memory with tensors that other clients remember too, who got the same finals, held once."""
        tensors: dict[str, Tensor] = {}
        tree = to_tree(memory, tensors)
        for key, tensor in tensors.items():
            self._pool.setdefault(key, tensor)
        return from_tree(tree, self._pool)
