"""A budget of bytes: what counts, and how many rounds it pays for.

The methods that are tuned send sketches and sigmas, whose lengths do not depend on what is in them. So a training is
rehearsed, with real messages and clients that answer zeros, until the budget is spent. What a run really cost is read from
its ledger all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from typing_extensions import override

from igc.experiments import metrics
from igc.experiments.assemble import connect, sampler_of
from igc.experiments.compare.execute import OutOfTimeError
from igc.experiments.metrics import LEDGER
from igc.experiments.recipe import Recipe
from igc.federation import Account, Workplace
from igc.methods import Loss, Sketch, Worker
from igc.projection import Projection, Term
from igc.space import ParameterSpace

Scope = Literal["total", "client"]


@dataclass(frozen=True)
class Budget:
    """What a training may cost.

    Attributes:
        bytes: up and down, as serialised.
        scope: of all clients together ("total"), or of the client that sends and receives most ("client").
    """

    bytes: int
    scope: Scope = "total"

    def spent(self, accounts: Mapping[str, Account]) -> int:
        """The bytes that count, of a ledger's accounts."""
        each = [account.up + account.down for account in accounts.values()]
        return sum(each) if self.scope == "total" else max(each, default=0)

    def measured(self, folder: Path) -> int:
        """The bytes that count, of a run's ledger."""
        accounts: dict[str, Account] = {}
        for line in metrics.read(folder / LEDGER):
            for client, traffic in line["clients"].items():
                old = accounts.get(client, Account())
                accounts[client] = Account(old.down + traffic["down"], old.up + traffic["up"])
        return self.spent(accounts)


class Plan(NamedTuple):
    """How long a training may last.

    Attributes:
        rounds: that the budget pays for.
        bytes: that they cost, of those that count.
    """

    rounds: int
    bytes: int


@dataclass(frozen=True)
class Rehearsal:
    """Counts a training's bytes without training.

    Attributes:
        space: of the model.
        clients: all ids, in the order of the dataset.
    """

    space: ParameterSpace
    clients: Sequence[str]

    def plan(self, recipe: Recipe, budget: Budget, most: int, late: Callable[[], bool] = lambda: False) -> Plan:
        """The rounds that a budget pays for, at most ``most``.

        Args:
            recipe: what would be trained.
            budget: what it may cost.
            most: rounds.
            late: asked after each round whether to give up; a round of a large d takes its time.

        Raises:
            IgcError: the recipe does not fit the model or the clients.
            OutOfTimeError: it was late.
        """
        place = cast(Workplace, _Nowhere(len(self.space.entries)))
        engine, server = connect(recipe, self.space, sampler_of(recipe, self.clients), place, None)
        spent = 0
        for done in range(most):
            if late():
                raise OutOfTimeError
            server.run_round(engine)
            now = budget.spent(server.ledger.accounts)
            if now > budget.bytes:
                return Plan(done, spent)
            spent = now
        return Plan(most, spent)


class _Nowhere:
    """A workplace without a model."""

    def __init__(self, tensors: int) -> None:
        self._worker = _Idle(tensors)

    def worker(self, client: str, round: int) -> Worker:  # noqa: ARG002
        return self._worker


class _Idle(Worker):
    """A worker whose gradients are zero, in a space of so many tensors."""

    def __init__(self, tensors: int) -> None:
        self._tensors = tensors

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        """Nothing moves."""

    @override
    def sketch(self, projection: Projection) -> Sketch:
        return Sketch(torch.zeros(projection.d), 1, 0.0)

    @override
    def energies(self) -> Sketch:
        return Sketch(torch.zeros(self._tensors), 1, 0.0)

    @override
    def loss(self) -> Loss:
        return Loss(0.0, 1)

    @override
    def batches(self, size: int | None, epochs: int) -> Sequence[Worker]:
        return [self] * epochs
