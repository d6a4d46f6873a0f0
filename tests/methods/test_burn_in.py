"""The burn-in: what is learned, what is sent to whom, and what is then trained."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.federation import Dropout, Fused, InProcess
from igc.messages import Kind, Message, MessageError, decode
from igc.methods import BurnIn, ErrorFeedback, LocalSteps, MissedError, Scaffold, Static, Turn
from igc.methods.bits import from_words, to_bits, to_words
from igc.methods.burn_in import Basis
from igc.optim import Adam, Sgd
from igc.projection import BlockedHadamard, Projection, to_dense
from igc.records import from_tree, to_tree
from support.federation import Federation, Maker, burn_in
from support.quadratic import Floats, Quadratic, QuadraticFederation
from support.toy import toy_gradient

ROUNDS, K, d = 4, 3, 8
WIDE = 2 * d
LENGTH = 1 + 2 * WIDE * K  # of the directions, in float16; three bytes more fill a word


def method(p: Projection, o: Any) -> BurnIn:
    return burn_in(Static(p, o), ROUNDS, K)


MAKERS: dict[str, Maker] = {
    "static": method,
    "adam": lambda p, _: burn_in(Static(p, Adam()), ROUNDS, K),
    "error feedback": lambda p, o: burn_in(ErrorFeedback(Static(p, o), "lloyd-1"), ROUNDS, K),
    "local": lambda p, o: burn_in(LocalSteps(Static(p, o), 0.05, epochs=2, batch_size=2), ROUNDS, K),
    "scaffold": lambda p, o: burn_in(Scaffold(Static(p, o), 0.05, clients=7, epochs=2), ROUNDS, K),
}


def basis(f: Federation) -> Basis:
    found = f.server.state.basis
    assert isinstance(found, Basis)
    return found


def directions(f: Federation | QuadraticFederation) -> Tensor:
    """U, as everybody uses it, float64."""
    assert isinstance(f.method, BurnIn)
    return f.method.mixed(f.server.state.basis).learned.directions.double()


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    found: Tensor = torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))[0]
    return found


def test_it_is_descent_in_the_wide_subspace_and_then_in_learned_and_random_directions() -> None:
    rate = 0.05
    f = Federation(method, learning_rate=rate)
    assert isinstance(f.method, BurnIn)
    wide, rest = to_dense(f.method.wide).double(), to_dense(f.method.rest).double()
    theta, A, sketches = f.base.double(), wide, []
    for number in range(10):
        clients = f.sampler.sample(number)
        total = sum(len(f.clients[client]) for client in clients)
        shares = [len(f.clients[c]) / total * toy_gradient(theta, list(f.clients[c])) for c in clients]
        sketches.append(A.T @ torch.stack(shares).sum(0))
        theta = theta - rate * A @ sketches[-1]
        f.run(1)
        torch.testing.assert_close(f.position().double(), theta, rtol=1e-4, atol=1e-5)
        if number == ROUNDS - 1:
            found, expected = directions(f), np.linalg.svd(torch.stack(sketches).numpy())[2][:K].T
            # Rounded to 11 binary digits; signs do not matter to descent.
            np.testing.assert_allclose(found.abs().numpy(), np.abs(expected), rtol=2**-10, atol=1e-4)
            A = torch.cat([(WIDE / d) ** 0.5 * wide @ found, ((d - K) / d) ** 0.5 * rest], dim=1)
    assert f.server.state.sketches == ()


RANK = 6


def in_a_small_space(seed: int, D: int) -> tuple[list[Quadratic], Floats]:
    """Clients that agree on the best theta, and each of whom sees two directions of one space of RANK: it, too."""
    draw = np.random.default_rng(seed)
    space: Floats = np.linalg.qr(draw.normal(size=(D, RANK)))[0]
    centre = space @ draw.normal(size=RANK)
    seen = [space @ np.linalg.qr(draw.normal(size=(RANK, 2)))[0] for _ in range(6)]
    return [Quadratic(columns @ columns.T, centre) for columns in seen], space


def gap(f: QuadraticFederation, clients: list[Quadratic]) -> float:
    """The loss, whose least value is 0, as a share of what it began with."""
    start = np.zeros_like(clients[0].centre)
    return sum(c.value(f.theta()) for c in clients) / sum(c.value(start) for c in clients)


def test_it_learns_the_space_of_gradients_and_reaches_the_optimum_where_random_directions_do_not() -> None:
    D, narrow, wide, rounds = 120, RANK + 1, 60, 12
    clients, space = in_a_small_space(1, D)
    inner, wide_projection = Static(BlockedHadamard(D, narrow, 1), Sgd()), BlockedHadamard(D, wide, 2)
    method = BurnIn(inner, wide_projection, BlockedHadamard(D, narrow - RANK, 3), rounds)
    f = QuadraticFederation(method, clients, rate=lambda t: 0.02 if t < rounds else 0.05, per_round=1)
    f.run(rounds)
    learned = directions(f).numpy()
    gradients = to_dense(wide_projection).double().numpy().T @ space
    left = gradients - learned @ (learned.T @ gradients)
    assert np.linalg.norm(left) < 0.001 * np.linalg.norm(gradients)  # what rounding to 16 bits leaves out
    assert gap(f, clients) > 0.3  # the burn-in alone is not enough
    f.run(240)
    assert gap(f, clients) < 1e-4
    for rate in (0.01, 0.02, 0.05):
        plain = QuadraticFederation(inner, clients, rate=rate, per_round=1)
        plain.run(rounds + 240)
        assert not gap(plain, clients) < 1e-2


def learned(f: Federation) -> dict[tuple[int, str], bool]:
    """Round and client -> whether the download had the basis."""
    return {
        (number, client): "directions" in decode(payload, f.agreement, Kind.DOWNLOAD)
        for number, client, payload in f.engine.down
    }


def test_the_basis_goes_once_to_each_client_late_ones_too_and_is_paid_for() -> None:
    f = Federation(method)
    f.run(16)
    met: set[str] = set()
    for number in range(ROUNDS, 16):
        for client in f.sampler.sample(number):
            assert learned(f)[number, client] == (client not in met)
            met.add(client)
    assert met == set(f.clients)
    assert not any(had for (number, _), had in learned(f).items() if number < ROUNDS)
    named = 1 + 5 + 2 + 4
    sizes = {number: {len(p) for n, _, p in f.engine.down if n == number} for number in (0, ROUNDS, 15)}
    once = LENGTH + 3 + (1 + 10 + 2 + 4) + 4 * WIDE + (1 + 6 + 2 + 4)
    assert sizes[0] == {48 + 4 * WIDE + named}
    assert sizes[ROUNDS] == {48 + 4 * d + named + once}
    assert sizes[15] == {48 + 4 * d + named}
    assert {len(p) for n, _, p in f.engine.up if n < ROUNDS} == {73 + 4 * WIDE}
    assert {len(p) for n, _, p in f.engine.up if n >= ROUNDS} == {73 + 4 * d}
    assert f.server.ledger.up == sum(len(payload) for _, _, payload in f.engine.up)
    assert f.server.ledger.down == sum(len(payload) for _, _, payload in f.engine.down)


def test_a_lost_upload_confirms_nothing_and_a_wiped_client_is_sent_the_basis_again() -> None:
    f = Federation(method)
    f.run(ROUNDS)
    lost = f.sampler.sample(ROUNDS)[0]
    f.engine.tamper = lambda _, r: r._replace(payload=None, error="dropped") if r.client == lost else r
    f.run(1)
    f.engine.tamper = lambda _, r: r
    assert "directions" in f.method.download(f.server.state, Turn(lost, 9, 0, 3))
    f.run(11)
    assert "directions" not in f.method.download(f.server.state, Turn(lost, 9, 0, 3))
    wiped = f.sampler.sample(ROUNDS + 12)[0]
    f.engine.inner.memories.pop(wiped)
    assert f.run(1)[0].rejected == {wiped: "missed"}
    assert "directions" in f.method.download(f.server.state, Turn(wiped, 9, 0, 3))


@pytest.mark.parametrize("name", ["static", "local", "scaffold"])
def test_a_client_that_missed_the_burn_in_does_as_one_that_was_there(name: str) -> None:
    f = Federation(MAKERS[name], per_round=2)
    f.run(2)
    there = f.sampler.sample(0)[0]
    late = next(client for client in f.clients if client not in f.engine.inner.memories)
    f.run(ROUNDS - 2)
    f.clients[late] = f.clients[there]
    f.workplace._clients = f.clients
    download = Message(Kind.DOWNLOAD, 9, f.method.download(f.server.state, Turn(late, 9, 0, 3)))
    memories, uploads = [], []
    for memory in (f.method.client_init(), f.engine.inner.memories[there]):
        found, tensors = f.method.upload(memory, download, f.workplace.worker(there, 9))
        memories.append(found)
        uploads.append(tensors)
    assert all(torch.equal(uploads[0][key], uploads[1][key]) for key in uploads[0])
    assert torch.equal(memories[0].basis.directions, memories[1].basis.directions)
    # Once it has the basis, it needs no more than the others.
    f.run(ROUNDS + 2)
    known = f.method.download(f.server.state, Turn(there, 9, 0, 3))
    assert "directions" not in known


def test_a_client_with_another_basis_says_so_and_one_that_is_ahead_goes_back() -> None:
    f, other = Federation(method), Federation(method, learning_rate=0.01)
    f.run(ROUNDS + 3)
    other.run(ROUNDS + 3)
    client = f.sampler.sample(ROUNDS + 2)[0]
    worker, memory = f.workplace.worker(client, 9), other.engine.inner.memories[client]
    assert memory.basis.name != basis(f).name
    known = Message(Kind.DOWNLOAD, 9, f.method.download(f.server.state, Turn(client, 9, 0, 3)))
    with pytest.raises(MissedError):
        f.method.upload(memory, known, worker)
    burning = Message(Kind.DOWNLOAD, 9, f.method.download(f.method.init(), Turn(client, 9, 0, 3)))
    again, tensors = f.method.upload(memory, burning, worker)
    assert again.basis is None
    assert tensors["sketch"].shape == (WIDE,)


def test_rounds_without_an_upload_do_not_count_for_the_burn_in() -> None:
    f = Federation(method)
    f.run(ROUNDS - 1)
    f.engine.tamper = lambda _, r: r._replace(payload=None, error="dropped")
    f.run(5)
    assert f.server.state.basis is None
    f.engine.tamper = lambda _, r: r
    f.run(1)
    assert directions(f).shape == (WIDE, K)


@pytest.mark.parametrize("codec", ["float32", "eden-1", "lloyd-1", "int4", "float16"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_codec_leaves_the_basis_as_it_is_and_training_goes_on(name: str, codec: str) -> None:
    f = Federation(MAKERS[name], up=codec, down=codec, learning_rate=0.02)
    losses = [result.loss for result in f.run(20)]
    assert not any(result is None for result in losses)
    for memory in f.engine.inner.memories.values():
        assert torch.equal(memory.basis.directions, basis(f).directions)
        assert torch.equal(memory.basis.origin, basis(f).origin)
    assert bool(torch.isfinite(f.position()).all())


@pytest.mark.parametrize("name", ["static", "adam", "error feedback"])
def test_clients_stand_where_the_server_puts_them(name: str) -> None:
    f = Federation(MAKERS[name])
    for number in range(ROUNDS + 4):
        clients = f.sampler.sample(number)
        f.position()
        found = [f.workplace.worker(client, number).loss() for client in clients]
        mean = sum(loss.value * loss.weight for loss in found) / sum(loss.weight for loss in found)
        assert f.run(1)[0].loss == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("stop", [1, ROUNDS - 1, ROUNDS, ROUNDS + 2])
def test_a_run_that_stops_anywhere_goes_on_the_same(name: str, stop: int) -> None:
    straight, broken, again = (Federation(MAKERS[name], up="int8", down="float16") for _ in range(3))
    straight.run(ROUNDS + 5)
    broken.run(stop)
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(to_tree({"s": broken.server.state, "m": broken.engine.inner.memories}, tensors))
    found = from_tree(json.loads(tree), tensors)
    again.server.state, again.engine.inner.memories, again.server.round = found["s"], found["m"], stop
    again.run(ROUNDS + 5 - stop)
    assert torch.equal(again.position(), straight.position())
    assert again.engine.down == [entry for entry in straight.engine.down if entry[0] >= stop]
    assert again.engine.up == [entry for entry in straight.engine.up if entry[0] >= stop]


def test_the_fused_engine_gives_the_same() -> None:
    plain, fused = Federation(method), Federation(method)
    assert fused.method.linear
    inner = InProcess(fused.method, fused.agreement, fused.workplace, Dropout(0.0, 3))
    plain.run(ROUNDS + 4)
    for _ in range(ROUNDS + 4):
        fused.server.run_round(Fused(inner, fused.workplace))
    torch.testing.assert_close(fused.position(), plain.position(), rtol=1e-4, atol=1e-5)
    assert fused.server.ledger.accounts == plain.server.ledger.accounts


def test_moments_start_anew_in_the_new_subspace_and_the_model_stays_where_it_is() -> None:
    f = Federation(MAKERS["adam"])
    f.run(ROUNDS - 1)
    before = f.position()
    f.run(1)
    at_the_end = f.position()
    assert not torch.equal(at_the_end, before)
    state = f.server.state.inner
    assert state.optimizer.steps == 0
    assert not bool(state.sigma.any())
    assert isinstance(f.method, BurnIn)
    expected = f.base.double() + to_dense(f.method.wide).double() @ basis(f).origin.double()
    torch.testing.assert_close(at_the_end.double(), expected, rtol=1e-5, atol=1e-6)


START = torch.ones(WIDE)
GOOD = to_words(Basis.rounded(orthonormal(WIDE, K, 0), START).directions)
NAN = START.clone()
NAN[3] = torch.nan


def words(U: Tensor) -> Tensor:
    return to_words(Basis.rounded(U, START).directions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": GOOD[:-1]}, r"'directions' has shape \(24,\), due was \(25,\)"),
        ({"directions": words(orthonormal(WIDE, K + 1, 0))}, r"'directions' has shape \(33,\)"),
        ({"directions": GOOD[:, None]}, "shape"),
        ({"directions": words(2 * orthonormal(WIDE, K, 0))}, "orthonormal"),
        ({"directions": words(torch.zeros(WIDE, K))}, "orthonormal"),
        ({"directions": words(torch.full((WIDE, K), torch.nan))}, "'directions': "),
        ({"directions": torch.full((25,), 0x80808080)}, "'directions': "),
        ({"directions": GOOD.float()}, "whole numbers"),
        ({"origin": to_bits(START[1:])}, r"'origin' has shape \(15,\)"),
        ({"origin": to_bits(NAN)}, "NaN or infinity"),
        ({"origin": START}, "whole numbers"),
        ({"origin": None}, "'origin' has shape none"),
        ({"basis": torch.tensor(12345)}, "'basis' is 12345"),
        ({"basis": None}, "names its 'basis'"),
        ({"basis": torch.tensor([1, 2])}, "names its 'basis'"),
        ({"basis": torch.tensor(torch.nan)}, "names its 'basis'"),
        ({"sigma": torch.zeros(d + 1)}, r"'sigma' has shape \(9,\), due was \(8,\)"),
    ],
)
def test_a_client_refuses_a_basis_that_is_none(change: dict[str, Tensor | None], message: str) -> None:
    f = Federation(method)
    tensors: dict[str, Tensor | None] = {
        "sigma": torch.zeros(d),
        "directions": GOOD,
        "origin": to_bits(START),
        **change,
    }
    sent = tensors["directions"]
    assert sent is not None
    data = from_words(sent.reshape(-1), 4 * sent.numel())[:LENGTH]
    tensors.setdefault("basis", torch.tensor(Basis.of(data, START).name))  # its name is never what is wrong
    worker = f.workplace.worker(next(iter(f.clients)), 9)
    download = Message(Kind.DOWNLOAD, 9, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    memory = f.method.client_init()
    with pytest.raises(MessageError, match=message):
        f.method.upload(memory, download, worker)
    assert memory == f.method.client_init()


def test_the_good_one_is_taken() -> None:
    f = Federation(method)
    tensors = {"sigma": torch.zeros(d), "directions": GOOD, "origin": to_bits(START)}
    tensors["basis"] = torch.tensor(Basis.of(from_words(GOOD, LENGTH), START).name)
    worker = f.workplace.worker(next(iter(f.clients)), 9)
    memory, upload = f.method.upload(f.method.client_init(), Message(Kind.DOWNLOAD, 9, tensors), worker)
    assert memory.basis.name == int(tensors["basis"])
    assert upload["sketch"].shape == (d,)


@pytest.mark.parametrize(("rest", "rounds", "rows"), [(8, 9, 0), (2, 5, 0), (4, 3, 0), (4, 9, 1)])
def test_numbers_that_do_not_go_together_are_refused(rest: int, rounds: int, rows: int) -> None:
    inner = Static(BlockedHadamard(100, 8, 0), Sgd())
    with pytest.raises(ProjectionError):
        BurnIn(inner, BlockedHadamard(100 + rows, 16, 1), BlockedHadamard(100, rest, 2), rounds)


def test_all_of_it_is_in_what_both_sides_must_agree_on() -> None:
    inner = Static(BlockedHadamard(100, 8, 0), Sgd())
    several = [
        inner,
        *(
            BurnIn(inner, BlockedHadamard(100, wide, seed), BlockedHadamard(100, 8 - k, 2), rounds)
            for wide, seed, k, rounds in [(16, 1, 3, 5), (17, 1, 3, 5), (16, 9, 3, 5), (16, 1, 4, 5), (16, 1, 3, 6)]
        ),
    ]
    assert len({method.digest for method in several}) == len(several)
