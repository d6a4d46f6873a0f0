"""The fast path of simulation: the one-step clients of a round as one weighted batch, projected once per subspace.

An upload that is linear in the gradient (`Method.linear`) lets the weighted mean of uploads be computed as the upload of
the union of batches. Each client's reply then carries that mean under the client's own weight: the server, which averages
replies, gets the same mean, and the ledger the same bytes, as client by client. Messages are encoded, decoded and checked
as ever; only the gradients behind them are computed together, in batches of examples of like length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from typing_extensions import override

from igc.federation.engine import MISSED, Reply, Request
from igc.federation.in_process import InProcess
from igc.federation.worker import ClientWorker, NonFiniteError, Workplace
from igc.methods import MissedError, Sketch, Worker
from igc.projection import Projection, Term
from igc.projection.theta import same_terms

EXAMPLES_AT_ONCE: Final = 32  # unless the recipe's micro_batch says otherwise


class Fused:
    """Answers a round's requests together; see `igc.federation.in_process.InProcess` for one by one.

    Fit for methods whose upload is linear, uploads weighed by examples, and gradients that are not clipped.

    Args:
        sequential: the engine whose clients these are; it keeps their memories, and takes over where a loss is not finite.
        workplace: model and data.
    """

    def __init__(self, sequential: InProcess, workplace: Workplace) -> None:
        self._sequential = sequential
        self._workplace = workplace

    @property
    def memories(self) -> dict[str, Any]:
        """What clients remember."""
        return self._sequential.memories

    @memories.setter
    def memories(self, memories: dict[str, Any]) -> None:
        self._sequential.memories = memories

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply for each request, in order.

        Raises:
            NonFiniteError: a client's loss is not finite and the policy is "stop".
        """
        early = {request.client: self._sequential.silence(round, request) for request in requests}
        asked = [request for request in requests if early[request.client] is None]
        try:
            sketches = self._sketches(round, asked, early)
        except (NonFiniteError, _OneByOneError):  # of whom was it? one by one will tell
            yield from self._sequential.exchange(round, requests)
            return
        for request in requests:
            reply = early[request.client]
            yield reply or self._sequential.settle(
                request, partial(self._respond, request, _Known(sketches[request.client]))
            )

    def close(self) -> None:
        """Nothing to let go of."""

    def _respond(self, request: Request, worker: Worker) -> tuple[Any, bytes]:
        return self._sequential.respond(request, self.memories.get(request.client), lambda _: worker)

    def _sketches(self, round: int, requests: Sequence[Request], early: dict[str, Reply | None]) -> dict[str, Sketch]:
        groups: list[_Group] = []
        for request in requests:
            probe = _Probe()
            try:
                self._respond(request, probe)  # a rehearsal: nothing is remembered
            except MissedError:
                early[request.client] = Reply(request.client, request.position, None, MISSED)
                continue
            group = next((g for g in groups if g.wants_the_same(probe)), None)
            if group is None:
                groups.append(group := _Group(probe))
            group.workers.append(self._workplace.worker(request.client, round))
        return {client: sketch for group in groups for client, sketch in self._of_group(group)}

    def _of_group(self, group: _Group) -> Iterator[tuple[str, Sketch]]:
        """Each client's share: the mean over the group, and the client's own weight."""
        task = self._workplace.task
        union = [example for worker in group.workers for example in worker.batch]
        union.sort(key=task.length)
        names = ", ".join(worker.client for worker in group.workers)
        micro = self._workplace.batches.micro or EXAMPLES_AT_ONCE
        everyone = ClientWorker(self._workplace, names, group.workers[0].round, union, micro)
        everyone.move_(group.probe.current, group.probe.settled)
        mean = everyone.sketch(group.probe.projection)
        for worker in group.workers:
            yield worker.client, mean._replace(weight=task.count(worker.batch))


class _OneByOneError(Exception):
    """A round's clients compute something of which the union of their batches tells nothing."""


@dataclass
class _Probe(Worker):
    """A worker that finds out what a client would compute, and computes nothing."""

    current: list[Term] = field(default_factory=list)
    settled: list[Term] = field(default_factory=list)
    projection: Any = None

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self.current, self.settled = list(current), list(settled)

    @override
    def sketch(self, projection: Projection) -> Sketch:
        self.projection = projection
        return Sketch(torch.empty(0), 1, 0.0)

    @override
    def energies(self) -> Sketch:
        raise _OneByOneError


@dataclass(frozen=True)
class _Known(Worker):
    """A worker that has the answer."""

    answer: Sketch

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        """Stay: nothing is computed any more."""

    @override
    def sketch(self, projection: Projection) -> Sketch:
        return self.answer


@dataclass
class _Group:
    """Clients that compute at one position and project with one matrix."""

    probe: _Probe
    workers: list[ClientWorker] = field(default_factory=list)

    def wants_the_same(self, other: _Probe) -> bool:
        return (
            self.probe.projection == other.projection
            and same_terms(self.probe.current, other.current)
            and same_terms(self.probe.settled, other.settled)
        )
