"""What worker processes answer with in tests: every case of one suite, so that one crew serves it."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch

from igc.federation import Request
from igc.federation.processes import Respond
from support.federation import METHODS, Federation
from support.toy import toy_clients

DOOMED = "doomed"  # the last part of a client's name: its process dies of it
POISONED = "poisoned"

# What cannot be fused, the methods aside.
SETTINGS: dict[str, dict[str, Any]] = {
    "clipped": {"clip_norm": 0.01},
    "uniform": {"weights": "uniform"},
    "lossy": {"up": "eden-2"},
    "skip": {"non_finite": "skip"},
    "stop": {"non_finite": "stop"},
}
CASES = [*METHODS, *SETTINGS]


def federation(case: str, **settings: Any) -> Federation:
    """The case's federation; its clients are called after it."""
    clients = {f"{case}/{name}": examples for name, examples in toy_clients(7, seed=1).items()}
    if case in ("skip", "stop"):
        clients[f"{case}/{POISONED}"] = [(x, torch.tensor(torch.nan)) for x, _ in clients[f"{case}/c0"]]
    make = METHODS.get(case, METHODS["fedavg"] if case in ("skip", "stop") else METHODS["static"])
    return Federation(make, clients=clients, **{"batch": 3, **SETTINGS.get(case, {}), **settings})


def respond_to_any() -> Respond:
    """Answers the clients of every case."""
    torch.set_num_threads(1)
    cases: dict[str, Federation] = {}

    def respond(request: Request, memory: Any) -> tuple[Any, bytes]:
        case, _, name = request.client.partition("/")
        if name == DOOMED:
            os.kill(os.getpid(), signal.SIGKILL)
        if case not in cases:
            cases[case] = federation(case)
        return cases[case].engine.inner.respond(request, memory)

    return respond
