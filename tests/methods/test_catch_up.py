"""Clients that missed epochs, the cap of D numbers, and METHOD.md's table of costs."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.codecs import CODECS
from igc.messages import Agreement, Kind, Message, decode, encode
from igc.methods import MissedError, Static, TimeVarying
from igc.methods.base import Turn
from igc.optim import ServerOptimizer
from igc.projection import Projection, Term
from igc.projection.theta import displacement
from support.federation import METHODS, Federation

TIME_VARYING = ["time-varying", "k-subspace-time-varying"]


def downloads(f: Federation) -> list[tuple[int, str, Message]]:
    return [(r, client, decode(payload, f.agreement, Kind.DOWNLOAD)) for r, client, payload in f.engine.down]


def numbers(message: Message, *names: str) -> int:
    return sum(message[name].numel() for name in names if name in message)


@pytest.mark.parametrize("name", TIME_VARYING)
def test_every_client_stands_where_the_server_stands_whatever_it_missed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniform sampling and dropouts: clients come after gaps of any length, some for the first time, late."""
    f = Federation(METHODS[name], sampling="uniform", per_round=2, dropout=0.3, d=50)
    seen: list[Tensor] = []
    original = type(f.workplace.worker(next(iter(f.clients)), 0)).sketch

    def spy(worker: Any, projection: Any) -> Any:
        seen.append(f.theta())
        return original(worker, projection)

    monkeypatch.setattr("igc.federation.worker.ClientWorker.sketch", spy)
    kinds = set()
    for _ in range(30):
        expected = f.position()
        seen.clear()
        f.run(1)
        assert seen or f.engine.down
        for theta in seen:
            assert torch.equal(theta, expected)
    for _, _, message in downloads(f):
        kinds |= {key for key in ("finals", "displacement") if key in message}
    assert kinds == {"finals", "displacement"}  # both ways of catching up were walked


@pytest.mark.parametrize("codec", ["float16", "int8", "eden-4", "eden-1", "lloyd-1"])
@pytest.mark.parametrize("name", TIME_VARYING)
def test_a_codec_rounds_a_final_once_and_for_everybody(name: str, codec: str) -> None:
    """What is over is never sent anew: clients that stood elsewhere would stay there for good."""

    def lossy(projection: Projection, optimizer: ServerOptimizer) -> TimeVarying:
        method = METHODS[name](projection, optimizer)
        assert isinstance(method, TimeVarying)
        return dataclasses.replace(method, down=codec)

    f = Federation(lossy, sampling="uniform", per_round=2, dropout=0.3, d=50, down=codec)
    kinds = set()
    for number in range(60):
        if number == 50:  # everybody is a newcomer, who lacks the finals of 25 epochs
            for client in f.clients:
                f.server.state = f.method.forget(f.server.state, client)
        f.run(1)
        kinds |= {key for key in ("finals", "displacement") for _, _, m in downloads(f)[-2:] if key in m}
        finals = f.server.state.finals
        for memory in f.engine.inner.memories.values():
            for mine, servers in zip(memory.finals, finals[memory.base_epochs : memory.epochs], strict=True):
                assert torch.equal(mine, servers)
            if memory.base is not None:
                settled = f.method._settled(finals[: memory.base_epochs])  # type: ignore[attr-defined]
                assert torch.equal(memory.base, displacement(settled, f.space.D))
    sigma = f.server.state.inner.sigma
    newcomers = 25 * -(-CODECS[codec].length(tuple(sigma.shape)) // 4)
    assert kinds >= {"finals"} | ({"displacement"} if newcomers > f.space.D else set())
    for _, _, message in downloads(f):
        assert 4 * numbers(message, "finals", "displacement") <= 4 * f.space.D


@pytest.mark.parametrize("name", TIME_VARYING)
def test_catching_up_never_takes_more_numbers_than_the_model_has(name: str) -> None:
    f = Federation(METHODS[name], sampling="uniform", per_round=1, d=50)
    f.run(30)
    D = f.space.D
    for number, _, message in downloads(f):
        epoch = number // 2
        assert numbers(message, "finals") <= D
        assert numbers(message, "displacement") in (0, D)
        assert not ("finals" in message and "displacement" in message)
        assert numbers(message, "sigma") == f.server.state.inner.sigma.numel()
        assert int(message["epoch"]) == epoch


def test_a_client_that_took_part_in_the_epoch_before_gets_two_sigmas() -> None:
    f = Federation(METHODS["time-varying"], per_round=4)  # 7 clients: two rounds an epoch, as rounds_per_epoch
    f.run(8)
    d = f.projection.d
    for number, _, message in downloads(f):
        assert numbers(message, "sigma") == d
        assert numbers(message, "finals") == (d if number >= 2 else 0)


@settings(max_examples=15)
@given(epochs=st.integers(1, 4), name=st.sampled_from(["static", "time-varying", "k-subspace", "fedsgd"]))
def test_numbers_sent_are_those_of_the_table(epochs: int, name: str) -> None:
    """METHOD.md, section 2: per client, E epochs, one participation an epoch."""
    f = Federation(METHODS[name], per_round=4)
    f.run(2 * epochs)
    D, d, E = f.space.D, f.projection.d, epochs
    up = {"static": d * E, "time-varying": d * E, "k-subspace": d * E, "fedsgd": D * E}[name]
    down = {"static": d * E, "time-varying": 2 * d * E, "k-subspace": 3 * d * E, "fedsgd": D * E}[name]
    explored = {"static": d, "time-varying": d * E, "k-subspace": 3 * d, "fedsgd": D}[name]
    assert f.method.traffic(E, E) == (up, down, explored)
    first_contact = d if name == "time-varying" else 0  # nothing is final yet in the first epoch
    for client in f.clients:
        received = [m for _, who, m in downloads(f) if who == client]
        sent = [decode(p, f.agreement, Kind.UPLOAD) for _, who, p in f.engine.up if who == client]
        assert sum(numbers(m, "sketch") for m in sent) == up
        assert sum(numbers(m, "sigma", "finals", "displacement") for m in received) == down - first_contact


@pytest.mark.parametrize("name", METHODS)
def test_headers_and_labels_cost_less_than_200_bytes_a_message(name: str) -> None:
    f = Federation(METHODS[name])
    f.run(6)
    for way, kind in ((f.engine.down, Kind.DOWNLOAD), (f.engine.up, Kind.UPLOAD)):
        for _, _, payload in way:
            message = decode(payload, f.agreement, kind)
            assert len(payload) - 4 * sum(t.numel() for t in message.tensors.values()) < 200


def test_a_displacement_is_held_once_and_no_longer_than_a_client_remembers_it() -> None:
    f = Federation(METHODS["time-varying"], sampling="uniform", per_round=7, d=50)
    f.run(30)
    f.engine.inner.memories.clear()
    f.server.state = f.method.forget(f.server.state, "c0")
    for number in range(3):  # three displacements, one after the other
        for client in f.clients:
            f.server.state = f.method.forget(f.server.state, client)
        f.run(2)
        held = {id(m.base): m.base for m in f.engine.inner.memories.values() if m.base is not None}
        assert len(held) == 1, number
    gc.collect()
    assert len(f.engine.inner._pool) <= len(held) + 1 + len(f.server.state.finals)
    assert sum(t.numel() == f.space.D for t in f.engine.inner._pool.values()) == 1


def test_a_wiped_client_is_sent_everything_again_and_training_goes_on() -> None:
    f = Federation(METHODS["time-varying"], sampling="uniform", per_round=7)
    f.run(6)
    client = next(iter(f.clients))
    f.engine.inner.memories.pop(client)
    assert list(f.run(1)[0].rejected) == [client]
    assert f.run(1)[0].rejected == {}
    last = [m for _, who, m in downloads(f) if who == client][-1]
    assert numbers(last, "finals") == 3 * f.projection.d


def test_a_server_that_lost_an_upload_may_send_again_what_a_client_knows() -> None:
    f = Federation(METHODS["time-varying"], sampling="uniform", per_round=7)
    f.run(5)
    client = next(iter(f.clients))
    memory = f.engine.inner.memories[client]
    turn = Turn(client, 5, 0, 7)
    doubtful = f.method.forget(f.server.state, client)
    message = Message(Kind.DOWNLOAD, 5, f.method.download(doubtful, turn))
    learned, _ = f.method.upload(memory, message, f.workplace.worker(client, 5))
    assert len(learned.finals) == 2
    assert all(torch.equal(a, b) for a, b in zip(learned.finals, f.server.state.finals, strict=True))


def test_a_server_that_went_back_misses_each_client_once() -> None:
    """Also those that hold a whole displacement of epochs that the server has lost."""
    f = Federation(lambda p, o: TimeVarying(Static(p, o), 1), d=32, sampling="uniform", per_round=7)
    f.run(2)
    kept, number = f.server.state, f.server.round
    f.run(28)
    f.engine.inner.memories.clear()
    for client in f.clients:
        f.server.state = f.method.forget(f.server.state, client)
    f.run(1)
    assert all(memory.base_epochs == 30 for memory in f.engine.inner.memories.values())
    f.server.state, f.server.round = kept, number
    assert [len(result.rejected) for result in f.run(4)] == [7, 0, 0, 0]


def test_a_download_with_a_gap_is_refused_by_the_client() -> None:
    f = Federation(METHODS["time-varying"], sampling="uniform", per_round=7)
    f.run(6)
    client = next(iter(f.clients))
    message = Message(Kind.DOWNLOAD, 6, f.method.download(f.server.state, Turn(client, 6, 0, 7)))
    with pytest.raises(MissedError, match="2 past epochs, 0 are known"):
        f.method.upload(f.method.client_init(), message, f.workplace.worker(client, 6))


def test_finals_are_shared_between_the_memories_of_clients() -> None:
    f = Federation(METHODS["time-varying"], sampling="uniform", per_round=7)
    f.run(7)
    memories = f.engine.inner.memories.values()
    assert len({id(final) for memory in memories for final in memory.finals}) == 3


def test_parties_under_other_settings_do_not_understand_each_other() -> None:
    f = Federation(METHODS["time-varying"])
    other = TimeVarying(Static(f.projection, f.method.inner.optimizer), rounds_per_epoch=3)  # type: ignore[attr-defined]
    theirs = Agreement(f.space.fingerprint, other.projection.digest, other.digest)
    message = Message(Kind.DOWNLOAD, 0, {"sigma": torch.zeros(f.projection.d)})
    with pytest.raises(Exception, match="other settings"):
        decode(encode(message, theirs), f.agreement, Kind.DOWNLOAD)


def test_terms_of_a_state_are_its_finals_and_its_sigma() -> None:
    f = Federation(METHODS["time-varying"])
    f.run(5)
    current, settled = f.method.terms(f.server.state)
    assert [term.projection for term in settled] == [f.projection, f.projection.child(1)]
    assert [term.projection for term in current] == [f.projection.child(2)]
    assert all(isinstance(term, Term) for term in (*settled, *current))
