"""A client with local noise trusts nobody's account but its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from igc.federation import Request
from igc.federation.protection import Accountant, AnsweredError, GaussianNoise, NormBound, Protection
from igc.federation.secure.settings import SecureSettings
from igc.messages import Kind, Message, decode, encode
from igc.methods import Static, TimeVarying, Turn
from support.federation import Federation, Maker

LIMIT = 0.05
MAKERS: dict[str, Maker] = {
    "static": Static,
    "time-varying": lambda p, o: TimeVarying(Static(p, o), rounds_per_epoch=2),
}


def local(make: Maker = Static, answers: int | None = None, secure: SecureSettings | None = None) -> Federation:
    noise = GaussianNoise(LIMIT, seed=None)
    protection = Protection(NormBound(LIMIT), noise=noise, where="local", answers=answers, secure=secure)
    return Federation(make, per_round=7, weights="uniform", protection=protection)


def ask(made: Federation, round: int, memory: Any) -> tuple[Any, torch.Tensor]:
    """What c0 answers to the server's present download under the number of some round."""
    tensors = made.method.download(made.server.state, Turn("c0", round, 0, 7))
    payload = encode(Message(Kind.DOWNLOAD, round, tensors), made.agreement)
    memory, upload = made.engine.inner.respond(Request("c0", 0, payload), memory)
    return memory, decode(upload, made.agreement, Kind.UPLOAD)["sketch"]


def test_a_replayed_download_gets_no_fresh_noise() -> None:
    made = local()
    memory, _ = ask(made, 0, None)
    for _ in range(3):
        with pytest.raises(AnsweredError, match="has answered round 1 before"):
            ask(made, 0, memory)
    memory, _ = ask(made, 4, memory)
    for earlier in range(5):  # nor for a round that it was not asked for at its time
        with pytest.raises(AnsweredError, match="has answered round 5 before"):
            ask(made, earlier, memory)


def test_the_budget_holds_whatever_the_rounds_are_called() -> None:
    made, memory = local(answers=3), None
    for round in (0, 1, 7):
        memory, _ = ask(made, round, memory)
    with pytest.raises(AnsweredError, match=r"answered 3 times, and privacy\.epsilon, by its own account, covers 3"):
        ask(made, 8, memory)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("secure", [None, SecureSettings(7)], ids=["plain", "secure"])
def test_an_honest_server_is_answered_every_round(name: str, secure: SecureSettings | None) -> None:
    made = local(MAKERS[name], answers=5, secure=secure)
    results = made.run(5)
    assert all(r.clients == 7 and not r.rejected and not r.skipped for r in results)
    (result,) = made.run(1)  # whose own account has not stopped it
    assert len(result.rejected) == 7 and all("covers 5" in reason for reason in result.rejected.values())


@pytest.mark.parametrize("z", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("budget", [0.5, 2.0, 30.0])
def test_the_most_answers_are_those_that_the_budget_covers(z: float, budget: float) -> None:
    accountant = Accountant("local", z, 1e-5)
    most = accountant.most(budget)
    assert accountant.epsilon(0, most) <= budget < accountant.epsilon(0, most + 1)
