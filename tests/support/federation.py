"""A whole federation on a toy task: server, messages, clients, and nothing left out but the size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from igc.federation import BatchSettings, Dropout, InProcess, Reply, Request, RoundResult, Sampler, Server, Workplace
from igc.federation.protection import UNPROTECTED, Protection
from igc.messages import Agreement
from igc.methods import (
    BurnIn,
    Calibrated,
    ErrorFeedback,
    FetchSgd,
    KSubspace,
    LocalSteps,
    LocalTopK,
    Method,
    Plateau,
    PowerSgd,
    RandomK,
    Scaffold,
    Static,
    TimeVarying,
    TrueTopK,
    ZerothOrder,
    fedsgd,
)
from igc.optim import ServerOptimizer, Sgd
from igc.projection import BlockedHadamard, Coordinates, CountSketch, DirectSum, Identity, Projection
from igc.projection.philox import child_seed
from igc.space import ParameterSpace
from support.toy import ToyTask, toy_clients

Maker = Callable[[Projection, ServerOptimizer], Method[Any, Any]]

TOY_SHAPES = tuple(tuple(parameter.shape) for parameter in ToyTask().model().parameters())
TOY_SIZES = tuple(prod(shape) for shape in TOY_SHAPES)


def in_groups(p: Projection) -> Projection:
    """The same d for the toy's matrices, and its vectors in full."""
    full = sum(size for size, shape in zip(TOY_SIZES, TOY_SHAPES, strict=True) if len(shape) == 1)
    parts = BlockedHadamard(D=sum(TOY_SIZES) - full, d=p.d, seed=p.seed), Identity(full, full, 0)
    return DirectSum(parts, TOY_SIZES, tuple(int(len(shape) == 1) for shape in TOY_SHAPES))


def burn_in(inner: Method[Any, Any], rounds: int = 3, learned: int = 3) -> BurnIn:
    """Around a method: a subspace twice as wide, and fewer rounds than contract suites run."""
    p = inner.projection
    wide, rest = (
        BlockedHadamard(D=p.D, d=d, seed=child_seed(p.seed, i)) for i, d in ((1, 2 * p.d), (2, p.d - learned))
    )
    return BurnIn(inner, wide, rest, rounds)


# Every registered way to train, for contract suites; a new method is tested by being named here.
METHODS: dict[str, Maker] = {
    "static": Static,
    "k-subspace": lambda p, o: KSubspace(p, o, subspaces=3),
    "time-varying": lambda p, o: TimeVarying(Static(p, o), rounds_per_epoch=2),
    "k-subspace-time-varying": lambda p, o: TimeVarying(KSubspace(p, o, subspaces=2), rounds_per_epoch=2),
    "fedsgd": lambda p, o: fedsgd(p.D, o),
    "fedavg": lambda p, o: LocalSteps(fedsgd(p.D, o), 0.05, epochs=2, batch_size=2),
    "local-top-k": lambda p, o: LocalTopK.of(p.D, o, k=p.d),
    "local-top-k-stateless": lambda p, o: LocalTopK.of(p.D, o, k=p.d, error_feedback=False),
    "true-top-k": lambda p, o: TrueTopK.of(p.D, k=p.d, momentum=0.9),
    "random-k": lambda p, o: RandomK(Coordinates(p.D, p.d, p.seed), o),
    "fetchsgd": lambda p, o: FetchSgd(CountSketch(p.D, 3 * (p.D // 2), p.seed, rows=3), k=p.d, momentum=0.9),
    "powersgd": lambda p, o: PowerSgd(TOY_SHAPES, o, rank=2),
    "powersgd-stateless": lambda p, o: PowerSgd(TOY_SHAPES, o, rank=2, error_feedback=False),
    "decomfl": lambda p, o: ZerothOrder(TimeVarying(Static(p, o), rounds_per_epoch=1), 1e-2),
    "error-feedback": lambda p, o: ErrorFeedback(Static(p, o), "lloyd-1"),
    "k-subspace-time-varying-error-feedback": lambda p, o: ErrorFeedback(
        TimeVarying(KSubspace(p, o, subspaces=2), rounds_per_epoch=2), "int4"
    ),
    "scaffold": lambda p, o: Scaffold(fedsgd(p.D, o), 0.05, clients=7, epochs=2, batch_size=2),
    "time-varying-scaffold": lambda p, o: Scaffold(
        ErrorFeedback(TimeVarying(Static(p, o), rounds_per_epoch=2), "eden-2"), 0.05, clients=7, epochs=2
    ),
    "time-varying-plateau": lambda p, o: TimeVarying(Static(p, o), 3, Plateau(1, 0.2), "carry-scale"),
    "time-varying-local": lambda p, o: LocalSteps(TimeVarying(Static(p, o), rounds_per_epoch=2), 0.05, epochs=2),
    "calibrated": lambda p, o: Calibrated(Static(p, o), TOY_SIZES),
    "calibrated-k-subspace-time-varying": lambda p, o: Calibrated(
        TimeVarying(KSubspace(p, o, subspaces=2), rounds_per_epoch=2), TOY_SIZES, exponent=0.5
    ),
    "calibrated-groups": lambda p, o: Calibrated(
        TimeVarying(Static(in_groups(p), o), rounds_per_epoch=2), TOY_SIZES, floor=0.05
    ),
    "calibrated-local": lambda p, o: Calibrated(
        LocalSteps(ErrorFeedback(Static(p, o), "int4"), 0.05, epochs=2), TOY_SIZES
    ),
    "burn-in": lambda p, o: burn_in(Static(p, o)),
    "burn-in-error-feedback": lambda p, o: burn_in(ErrorFeedback(Static(p, o), "lloyd-1")),
    "burn-in-scaffold": lambda p, o: burn_in(Scaffold(Static(p, o), 0.05, clients=7, epochs=2, batch_size=2)),
}

# Those that the fused engine may compute as one batch.
LINEAR = [name for name, make in METHODS.items() if make(BlockedHadamard(D=64, d=8, seed=0), Sgd()).linear]


@dataclass
class Spy:
    """An engine that keeps every payload that passes, and can lose or change some."""

    inner: InProcess
    down: list[tuple[int, str, bytes]] = field(default_factory=list)
    up: list[tuple[int, str, bytes]] = field(default_factory=list)
    tamper: Callable[[int, Reply], Reply] = lambda round, reply: reply

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        self.down += [(round, request.client, request.payload) for request in requests]
        for reply in self.inner.exchange(round, requests):
            found = self.tamper(round, reply)
            if found.payload is not None:
                self.up.append((round, found.client, found.payload))
            yield found

    def close(self) -> None:
        self.inner.close()


class Federation:
    """Toy clients under a method, round after round."""

    def __init__(
        self,
        make: Maker,
        *,
        d: int = 8,
        clients: Mapping[str, Sequence[Any]] | None = None,
        per_round: int = 3,
        sampling: Literal["epoch", "uniform"] = "epoch",
        optimizer: ServerOptimizer | None = None,
        learning_rate: float = 0.05,
        batch: int | None = None,
        clip_norm: float | None = None,
        dropout: float = 0.0,
        non_finite: Literal["skip", "stop"] = "stop",
        weights: Literal["examples", "uniform"] = "examples",
        up: str = "float32",
        down: str = "float32",
        seed: int = 3,
        protection: Protection = UNPROTECTED,
        device: str = "cpu",
    ) -> None:
        task = ToyTask()
        self.clients = dict(toy_clients(7, seed=1) if clients is None else clients)
        self.model = task.model().to(device)
        self.space = ParameterSpace.of(self.model)
        self.base = self.theta()
        self.workplace = Workplace(
            self.model, self.space, task, self.clients, BatchSettings(batch, None, clip_norm, seed)
        )
        self.projection = BlockedHadamard(D=self.space.D, d=d, seed=seed)
        self.method = make(self.projection, optimizer or Sgd())
        digests = self.space.fingerprint, self.method.projection.digest, self.method.digest
        self.agreement = Agreement(*digests, up, down)
        self.sampler = Sampler(tuple(self.clients), per_round, seed, sampling)
        inner = InProcess(self.method, self.agreement, self.workplace, Dropout(dropout, seed), non_finite, protection)
        self.engine = Spy(inner)
        self.server = Server(
            self.method, self.agreement, self.sampler, lambda round: learning_rate, weights, protection=protection
        )

    def run(self, rounds: int) -> list[RoundResult]:
        return [self.server.run_round(self.engine) for _ in range(rounds)]

    def theta(self) -> Tensor:
        """Where the model now is, flat."""
        return torch.cat([p.detach().reshape(-1) for p in self.space.parameters(self.model)]).clone()

    def position(self) -> Tensor:
        """Where the server's state puts the model, flat."""
        self.workplace.theta.move_(*self.method.terms(self.server.state))
        return self.theta()
