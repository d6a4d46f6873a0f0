"""SCAFFOLD against the paper's algorithm in NumPy, and where FedAvg goes wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from igc.federation import InProcess, Reply, Request
from igc.federation.engine import MISSED
from igc.messages import Kind, Message, TensorError, decode
from igc.methods import ErrorFeedback, LocalSteps, Scaffold, Static, TimeVarying, Turn, fedsgd
from igc.optim import Sgd
from igc.projection import BlockedHadamard, to_dense
from support.federation import Federation
from support.quadratic import Floats, Quadratic, QuadraticFederation, minimum, quadratics

RATE = 0.1


def scaffold(
    clients: Sequence[Quadratic], A: Floats, sampled: Sequence[Sequence[int]], steps: Sequence[int], server_rate: float
) -> list[Floats]:
    """Karimireddy et al. 2020, algorithm 1 with option II, on f_i(A x): x after every round."""
    x, c = np.zeros(A.shape[1]), np.zeros(A.shape[1])
    own = [np.zeros(A.shape[1]) for _ in clients]
    path = []
    for chosen in sampled:
        moves, changes = [], []
        for i in chosen:
            y = x.copy()
            for _ in range(steps[i]):
                y = y - RATE * (A.T @ clients[i].gradient(A @ y) - own[i] + c)
            new = own[i] - c + (x - y) / (steps[i] * RATE)
            moves.append(y - x)
            changes.append(new - own[i])
            own[i] = new
        x = x + server_rate * np.mean(moves, axis=0)
        c = c + len(chosen) / len(clients) * np.mean(changes, axis=0)
        path.append(x)
    return path


@pytest.mark.parametrize(("per_round", "server_rate"), [(6, 1.0), (2, 1.0), (2, 0.7)])
def test_it_is_the_papers_algorithm_in_the_coordinates_of_a_subspace(per_round: int, server_rate: float) -> None:
    clients, steps = quadratics(6, 12, seed=1), [5, 3, 8, 5, 3, 8]
    projection = BlockedHadamard(D=12, d=5, seed=3)
    method = Scaffold(Static(projection, Sgd()), RATE, clients=6)
    f = QuadraticFederation(method, clients, rate=server_rate, per_round=per_round, steps=steps, weights="uniform")
    A = to_dense(projection).double().numpy()
    sampled = [[f.names.index(name) for name in f.sampler.sample(number)] for number in range(12)]
    for expected in scaffold(clients, A, sampled, steps, server_rate):
        np.testing.assert_allclose(f.run(1), A @ expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", [(1,), (1, 5, 2)])
def test_many_local_steps_lead_fedavg_astray_and_not_scaffold(weights: Sequence[int]) -> None:
    clients, steps = quadratics(3, 6, seed=2, weights=weights), [12]
    best = minimum(clients)
    plain = LocalSteps(fedsgd(6, Sgd()), RATE)
    drifted = QuadraticFederation(plain, clients, rate=1.0, steps=steps).run(80)
    corrected = QuadraticFederation(Scaffold(fedsgd(6, Sgd()), RATE, 3), clients, rate=1.0, steps=steps).run(80)
    assert np.linalg.norm(drifted - best) > 0.15
    assert np.linalg.norm(corrected - best) < 1e-4
    # FedAvg did converge: its fixed point is another one.
    again = QuadraticFederation(plain, clients, rate=1.0, steps=steps).run(90)
    np.testing.assert_allclose(again, drifted, atol=1e-5)


def test_partial_participation_converges_to_the_minimum_too() -> None:
    clients = quadratics(6, 8, seed=4)
    f = QuadraticFederation(Scaffold(fedsgd(8, Sgd()), RATE, 6), clients, rate=1.0, per_round=2, steps=[10])
    assert np.linalg.norm(f.run(400) - minimum(clients)) < 1e-3


def test_where_clients_take_turns_it_is_the_minimum_of_clients_that_count_the_same() -> None:
    """With weights, it would be neither that one nor the minimum of the weighted losses; recipes refuse them."""
    clients = quadratics(6, 8, seed=4, weights=(1, 5, 2))
    equal = minimum([Quadratic(client.curvature, client.centre) for client in clients])

    def end(weights: str) -> Any:
        method = Scaffold(fedsgd(8, Sgd()), RATE, 6)
        return QuadraticFederation(method, clients, rate=1.0, per_round=2, steps=[10], weights=weights).run(400)

    assert np.linalg.norm(end("uniform") - equal) < 1e-3
    weighted = end("examples")
    assert min(np.linalg.norm(weighted - best) for best in (equal, minimum(clients))) > 0.1


@dataclass
class Losing:
    """An engine that loses some uploads, of (round, client); clients do not know."""

    inner: InProcess
    lost: frozenset[tuple[int, str]]

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        for reply in self.inner.exchange(round, requests):
            yield reply._replace(payload=None, error="late") if (round, reply.client) in self.lost else reply

    def close(self) -> None:
        self.inner.close()


def books(f: QuadraticFederation) -> Any:
    """The mean of what clients have for their c_i."""
    own = [f.engine.memories[name].control for name in f.names]
    return torch.stack(own).mean(0)


LOST = [
    {(3, "q0")},
    {(3, "q0"), (4, "q0"), (5, "q0"), (9, "q2"), (15, "q1")},
    {(0, "q0"), (1, "q0"), (0, "q3")},
    {(6, f"q{i}") for i in range(4)},
]


@pytest.mark.parametrize("per_round", [4, 2])
@pytest.mark.parametrize("lost", LOST)
def test_what_the_server_did_not_get_is_taken_back(lost: set[tuple[int, str]], per_round: int) -> None:
    clients = quadratics(4, 6, seed=1)
    f = QuadraticFederation(Scaffold(fedsgd(6, Sgd()), 0.05, 4, 5), clients, rate=1.0, per_round=per_round)
    if per_round < 4:  # the same turns, in the rounds in which they are due
        turns = {client: [r for r in range(80) if client in f.sampler.sample(r)] for client in f.names}
        lost = {(turns[client][number], client) for number, client in lost}
    engine = Losing(f.engine, frozenset(lost))
    for number in range(400):
        rejected = f.server.run_round(engine).rejected
        assert rejected.keys() == {client for round, client in lost if round == number}
        if number > 50:
            torch.testing.assert_close(f.server.state.control, books(f), rtol=1e-4, atol=1e-4)
    assert np.linalg.norm(f.theta() - minimum(clients)) < 1e-3


def test_a_client_keeps_its_control_of_before_until_the_next_is_known_to_have_come() -> None:
    clients = quadratics(4, 6, seed=1)
    early, late = (QuadraticFederation(Scaffold(fedsgd(6, Sgd()), 0.05, 4, 5), clients, rate=1.0) for _ in range(2))
    early.run(2)
    engine = Losing(late.engine, frozenset({(2, "q0"), (3, "q0")}))
    for _ in range(5):
        late.server.run_round(engine)
    memory = late.engine.memories["q0"]
    assert (memory.number, memory.before) == (5, 2)
    assert torch.equal(memory.previous, early.engine.memories["q0"].control)


@pytest.mark.parametrize("per_round", [4, 2])
def test_where_a_client_has_forgotten_all_controls_begin_again(per_round: int) -> None:
    clients = quadratics(4, 6, seed=1)
    f = QuadraticFederation(Scaffold(fedsgd(6, Sgd()), 0.05, 4, 5), clients, rate=1.0, per_round=per_round)
    f.run(20)
    forgetful = f.sampler.sample(20)[0]
    del f.engine.memories[forgetful]
    assert f.server.run_round(f.engine).rejected == {forgetful: MISSED}
    assert not f.server.state.control.any()
    # The next round is FedAvg's.
    fedavg = QuadraticFederation(LocalSteps(fedsgd(6, Sgd()), 0.05, 5), clients, rate=1.0, per_round=per_round)
    fedavg.server.state, fedavg.server.round = f.server.state.inner, 21
    assert np.array_equal(f.run(1), fedavg.run(1))
    f.run(30)
    torch.testing.assert_close(f.server.state.control, books(f), rtol=1e-4, atol=1e-4)
    assert np.linalg.norm(f.run(400) - minimum(clients)) < 1e-3


def test_a_client_that_has_forgotten_what_the_server_never_got_begins_by_itself() -> None:
    clients = quadratics(4, 6, seed=1)
    f = QuadraticFederation(Scaffold(fedsgd(6, Sgd()), 0.05, 4, 5), clients, rate=1.0)
    engine = Losing(f.engine, frozenset((r, "q0") for r in range(3)))
    for _ in range(3):
        f.server.run_round(engine)
    del f.engine.memories["q0"]
    assert f.server.state.control.any()
    assert not f.server.run_round(engine).rejected
    torch.testing.assert_close(f.server.state.control, books(f), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("since", [None, torch.tensor(0.0), torch.tensor([0])])
def test_downloads_say_what_they_build_on(since: Any) -> None:
    f = Federation(lambda p, o: Scaffold(Static(p, o), RATE, 7))
    good = dict(f.method.download(f.server.state, Turn("c0", 0, 0, 0)))
    del good["since"]
    download = Message(Kind.DOWNLOAD, 0, good if since is None else {**good, "since": since})
    with pytest.raises(TensorError, match="'since'"):
        f.method.upload(f.method.client_init(), download, f.workplace.worker("c0", 0))


@pytest.mark.parametrize("per_round", [8, 2])
@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize(
    ("up", "down"), [("eden-1", "float32"), ("float32", "eden-3"), ("lloyd-1", "lloyd-3"), ("int8", "int4")]
)
def test_whatever_codecs_lose_controls_stay_together(up: str, down: str, feedback: bool, per_round: int) -> None:
    """c is the mean of the c_i; what codecs lose must not add up in it."""
    clients = quadratics(8, 64, seed=6)
    inner: Any = fedsgd(64, Sgd())
    method = Scaffold(ErrorFeedback(inner, up) if feedback else inner, RATE, 8, up=up, down=down)
    f = QuadraticFederation(
        method, clients, rate=1.0, per_round=per_round, steps=[12], weights="uniform", up=up, down=down
    )
    f.run(60)
    own = [memory.control for memory in f.engine.memories.values()]
    assert len(own) == 8
    torch.testing.assert_close(f.server.state.control, torch.stack(own).mean(0), rtol=1e-4, atol=1e-4)


def test_coded_uploads_lead_to_the_minimum_too() -> None:
    """At the minimum there is nothing to lose: ways are zero."""
    clients = quadratics(8, 64, seed=6)
    method = Scaffold(fedsgd(64, Sgd()), RATE, 8, up="eden-1")
    f = QuadraticFederation(method, clients, rate=1.0, steps=[12], up="eden-1")
    assert np.linalg.norm(f.run(400) - minimum(clients)) < 1e-3


def test_inside_a_subspace_it_finds_the_minimum_of_the_subspace() -> None:
    clients, projection = quadratics(4, 16, seed=5), BlockedHadamard(D=16, d=4, seed=0)
    A = to_dense(projection).double().numpy()
    inside = [Quadratic(A.T @ c.curvature @ A, np.zeros(4)) for c in clients]
    pull = np.sum([A.T @ c.curvature @ c.centre for c in clients], axis=0)
    best = A @ np.linalg.solve(np.sum([c.curvature for c in inside], axis=0), pull)
    method = Scaffold(Static(projection, Sgd()), 0.02, 4)
    assert np.linalg.norm(QuadraticFederation(method, clients, rate=1.0, steps=[20]).run(120) - best) < 1e-3


def test_the_first_round_is_fedavg_and_later_ones_are_not() -> None:
    def make(kind: Any) -> Federation:
        return Federation(lambda p, o: kind(Static(p, o)), learning_rate=1.0, per_round=7)

    plain = make(lambda inner: LocalSteps(inner, RATE, 3, 2))
    corrected = make(lambda inner: Scaffold(inner, RATE, 7, 3, 2))
    plain.run(1), corrected.run(1)
    assert np.array_equal(plain.position().numpy(), corrected.position().numpy())
    plain.run(1), corrected.run(1)
    assert not np.allclose(plain.position().numpy(), corrected.position().numpy(), atol=1e-6)


def test_control_variates_cost_a_download_and_no_upload() -> None:
    plain = Federation(lambda p, o: LocalSteps(Static(p, o), RATE), per_round=7)
    corrected = Federation(lambda p, o: Scaffold(Static(p, o), RATE, 7), per_round=7)
    a, b = plain.run(3), corrected.run(3)
    d, messages = plain.projection.d, 7
    for before, after in zip(a, b, strict=True):
        more_down, more_up = after.bytes_down - before.bytes_down, after.bytes_up - before.bytes_up
        # 'control' with its name and shape, and 'since', a number with its name.
        assert more_down == (4 * d + 14 + 12) * messages
        assert 0 < more_up < 20 * messages
    for method, numbers in ((plain.method, d), (corrected.method, 2 * d)):
        assert method.traffic(3, 1) == (3 * d, 3 * numbers, d)


def test_a_new_subspace_begins_with_controls_of_zero_on_both_sides() -> None:
    f = Federation(lambda p, o: Scaffold(TimeVarying(Static(p, o), 2), RATE, 7, 2), per_round=7, learning_rate=1.0)
    f.run(1)
    memories = f.engine.inner.memories
    assert f.server.state.control.abs().sum() > 0
    # The server's is the weighted mean of what clients have, all of them having taken part.
    weights = {client: len(examples) for client, examples in f.clients.items()}
    mean = sum(weights[c] * memories[c].control for c in f.clients) / sum(weights.values())
    np.testing.assert_allclose(f.server.state.control.numpy(), mean.numpy(), rtol=1e-4, atol=1e-6)
    f.run(1)
    assert f.server.state.control.abs().sum() == 0
    fresh = Federation(lambda p, o: LocalSteps(TimeVarying(Static(p, o), 2), RATE, 2), per_round=7, learning_rate=1.0)
    fresh.server.state, fresh.server.round = f.server.state.inner, 2
    fresh.engine.inner.memories = {client: memory.inner for client, memory in f.engine.inner.memories.items()}
    f.run(1), fresh.run(1)
    assert np.array_equal(f.position().numpy(), fresh.position().numpy())


def test_uploads_that_name_no_step_are_refused() -> None:
    f = Federation(lambda p, o: Scaffold(Static(p, o), RATE, 7))

    def tamper(number: int, reply: Any) -> Any:
        from igc.messages import Message, encode

        upload = decode(reply.payload, f.agreement, Kind.UPLOAD)
        tensors = {**upload.tensors, "steps": torch.tensor(0)}
        return reply._replace(payload=encode(Message(Kind.UPLOAD, number, tensors), f.agreement))

    f.engine.tamper = tamper
    result = f.run(1)[0]
    assert result.clients == 0
    assert all("'steps' is 0" in reason for reason in result.rejected.values())
