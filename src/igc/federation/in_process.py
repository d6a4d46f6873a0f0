"""The in-process engine: every client in this process, one after the other, on one model."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

from torch import Tensor

from igc.federation.client import respond
from igc.federation.engine import DROPPED, MISSED, RefusedError, Reply, Request
from igc.federation.protection import UNPROTECTED, Protection
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
        protection: what clients do to their uploads.
    """

    def __init__(
        self,
        method: Method[Any, Any],
        agreement: Agreement,
        workplace: Workplace,
        dropout: Dropout,
        non_finite: Literal["skip", "stop"] = "stop",
        protection: Protection = UNPROTECTED,
    ) -> None:
        self._method = method
        self._agreement = agreement
        self._workplace = workplace
        self._dropout = dropout
        self._non_finite = non_finite
        self._protection = protection
        if protection.secure is not None:
            # Memories of the process before can be read once their kind is known here.
            importlib.import_module("igc.federation.secure.client")
        self._pool: WeakValueDictionary[str, Tensor] = WeakValueDictionary()  # of what some memory still holds
        self.memories: dict[str, Any] = {}

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply for each request, in order.

        Raises:
            NonFiniteError: a client's loss is not finite and the policy is "stop".
        """
        for request in requests:
            yield self.silence(round, request) or self.settle(
                request, partial(self.respond, request, self.memories.get(request.client))
            )

    def close(self) -> None:
        """Nothing to let go of."""

    def silence(self, round: int, request: Request) -> Reply | None:
        """The reply of a client that never answers; None: it does."""
        dropped = self._dropout.drops(round, request.position)
        return Reply(request.client, request.position, None, DROPPED) if dropped else None

    def settle(self, request: Request, respond: Callable[[], tuple[Any, bytes]]) -> Reply:
        """A client's reply; what it remembers changes with it.

        Args:
            request: to the client.
            respond: computes, wherever that may be, the new memory and the upload.

        Raises:
            NonFiniteError: the loss is not finite and the policy is "stop".
        """
        client, position = request.client, request.position
        try:
            memory, payload = respond()
        except MissedError:
            return Reply(client, position, None, MISSED)
        except RefusedError as error:
            return Reply(client, position, None, str(error))
        except NonFiniteError as error:
            if self._non_finite == "stop":
                raise
            return Reply(client, position, None, str(error))
        self.memories[client] = self._shared(memory)
        self.memories = dict(self._method.condense(self.memories, client))
        return Reply(client, position, payload)

    def respond(
        self, request: Request, memory: Any, worker_for: Callable[[int], Worker] | None = None
    ) -> tuple[Any, bytes]:
        """What a client makes of a request: its new memory, which is not kept, and its upload.

        Args:
            request: to the client.
            memory: what it remembers; None before its first round.
            worker_for: round -> its worker; None: the one of the workplace.

        Raises:
            MissedError: the client lacks an epoch.
            NonFiniteError: the loss is not finite.
            RefusedError: the server asks for what the client does not give.
        """
        worker_for = worker_for or partial(self._workplace.worker, request.client)
        return respond(
            self._method, self._agreement, memory, request.payload, worker_for, self._protection, request.client
        )

    def _shared(self, memory: Any) -> Any:
        """The memory with tensors that other clients remember too, who got the same finals, held once."""
        tensors: dict[str, Tensor] = {}
        tree = to_tree(memory, tensors, {id(tensor): key for key, tensor in self._pool.items()})
        for key, tensor in tensors.items():
            self._pool.setdefault(key, tensor)
        return from_tree(tree, self._pool)
