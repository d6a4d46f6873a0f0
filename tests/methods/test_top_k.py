"""Top-k methods against a loop in plain NumPy that holds every vector whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.codecs import CODECS
from igc.errors import ProjectionError
from igc.messages import Kind, decode
from igc.methods import LocalTopK, RandomK, TrueTopK
from igc.methods.top_k import largest
from igc.optim import Sgd
from igc.projection import Coordinates, to_dense
from support.federation import METHODS, Federation
from support.quadratic import QuadraticFederation, minimum, quadratics
from support.strategies import vector
from support.toy import toy_gradient

RATE, ROUNDS = 0.05, 8


def gradient(f: Federation, theta: np.ndarray, client: str) -> np.ndarray:
    found: np.ndarray = toy_gradient(torch.from_numpy(theta), f.clients[client]).numpy()
    return found


def top(x: np.ndarray, k: int) -> np.ndarray:
    """The k largest, zero elsewhere."""
    kept = np.zeros_like(x)
    chosen = np.argsort(-np.abs(x), kind="stable")[:k]
    kept[chosen] = x[chosen]
    return kept


def mean(f: Federation, clients: list[str], parts: list[np.ndarray]) -> np.ndarray:
    return np.average(parts, axis=0, weights=[len(f.clients[client]) for client in clients])


def assert_close(f: Federation, theta: np.ndarray) -> None:
    torch.testing.assert_close(f.position().double(), torch.from_numpy(theta), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_top_k_is_sparsified_sgd_with_memory(feedback: bool, momentum: float) -> None:
    """Stich, Cordonnier and Jaggi 2018, algorithm 1, with one memory a client."""
    k = 10
    f = Federation(
        lambda p, o: LocalTopK.of(p.D, o, k, feedback), sampling="uniform", optimizer=Sgd(momentum), learning_rate=RATE
    )
    theta = f.base.double().numpy()
    memory = {client: np.zeros_like(theta) for client in f.clients}
    velocity = np.zeros_like(theta)
    for number in range(ROUNDS):
        clients, sent = f.sampler.sample(number), []
        for client in clients:
            p = memory[client] + gradient(f, theta, client)
            sent.append(top(p, k))
            memory[client] = p - sent[-1] if feedback else memory[client]
        velocity = momentum * velocity + mean(f, clients, sent)
        theta = theta - RATE * velocity
        f.run(1)
        assert_close(f, theta)
    assert np.abs(theta - f.base.numpy()).max() > 0.01


def test_what_the_server_did_not_get_goes_back_into_the_memory() -> None:
    k, lost = 10, {1, 3, 4}
    f = Federation(lambda p, o: LocalTopK.of(p.D, o, k), per_round=7, learning_rate=RATE)
    f.engine.tamper = lambda number, reply: (
        reply._replace(payload=None, error="lost") if number in lost and reply.client == "c0" else reply
    )
    theta = f.base.double().numpy()
    memory = {client: np.zeros_like(theta) for client in f.clients}
    for number in range(ROUNDS):
        clients, sent = [], []
        for client in f.sampler.sample(number):
            p = memory[client] + gradient(f, theta, client)
            if client == "c0" and number in lost:
                memory[client] = p
                continue
            clients.append(client)
            sent.append(top(p, k))
            memory[client] = p - sent[-1]
        theta = theta - RATE * mean(f, clients, sent)
        f.run(1)
        assert_close(f, theta)


@pytest.mark.parametrize("up", [name for name in CODECS if name != "uint32"])
def test_what_the_server_reads_and_what_is_kept_make_up_gradients_and_errors(up: str) -> None:
    f = Federation(lambda p, o: LocalTopK.of(p.D, o, 40, up=up), per_round=7, learning_rate=RATE, up=up)
    lost = {2, 4, 5}
    f.engine.tamper = lambda number, reply: (
        reply._replace(payload=None, error="lost") if number in lost and reply.client == "c0" else reply
    )
    before = {client: torch.zeros(f.space.D) for client in f.clients}
    for number in range(7):
        gradients = {client: toy_gradient(f.position(), f.clients[client]).float() for client in f.clients}
        f.engine.up.clear()
        f.run(1)
        for client, gradient in gradients.items():
            memory = f.engine.inner.memories[client]
            total = before[client] + gradient
            uploads = [payload for _, who, payload in f.engine.up if who == client]
            if uploads:
                read = f.method.contribution(decode(uploads[0], f.agreement, Kind.UPLOAD, number))
                before[client] = memory.error
            else:  # it all goes back into the next
                read = torch.zeros_like(total).index_put((memory.sent.indices,), memory.sent.values)
                before[client] = total
            torch.testing.assert_close(memory.error + read, total, rtol=1e-4, atol=1e-4)
            assert memory.error.norm() <= 1.0001 * total.norm()


@pytest.mark.parametrize("up", ["qsgd-2"])
def test_what_codecs_lose_comes_back(up: str) -> None:
    """Where the error does not know of the codec, it ends three times as far away, or farther."""
    clients = quadratics(4, 40, seed=1)
    best = minimum(clients)

    def end(told: str) -> float:
        method = LocalTopK.of(40, Sgd(), 4, up=told)
        f = QuadraticFederation(method, clients, rate=lambda r: 0.05 if r < 150 else 0.005, up=up)
        return float(np.linalg.norm(f.run(300) - best))

    assert end(up) < 0.4 * end("float32")


@pytest.mark.parametrize("masking", [True, False])
def test_true_top_k_is_top_k_of_the_servers_error(masking: bool) -> None:
    """Rothchild et al. 2020, as their code has it: momentum, error, and both zeroed where the update is not zero."""
    k, rho = 10, 0.9
    f = Federation(lambda p, o: TrueTopK.of(p.D, k, rho, masking), sampling="uniform", learning_rate=RATE)
    theta = f.base.double().numpy()
    velocity, error = np.zeros_like(theta), np.zeros_like(theta)
    for number in range(ROUNDS):
        clients = f.sampler.sample(number)
        velocity = rho * velocity + mean(f, clients, [gradient(f, theta, client) for client in clients])
        error = error + velocity
        update = top(error, k)
        error = np.where(update != 0, 0, error)
        velocity = np.where((update != 0) & masking, 0, velocity)
        theta = theta - RATE * update
        f.run(1)
        assert_close(f, theta)


def test_random_k_descends_along_its_coordinates() -> None:
    projection = Coordinates(f_size(), 20, 5)
    f = Federation(lambda p, o: RandomK(projection, o), sampling="uniform", learning_rate=0.01)
    theta = f.base.double().numpy()
    for number in range(ROUNDS):
        clients = f.sampler.sample(number)
        A = to_dense(projection.child(number)).double().numpy()
        g = mean(f, clients, [gradient(f, theta, client) for client in clients])
        theta = theta - 0.01 * A @ (A.T @ g)
        f.run(1)
        assert_close(f, theta)


def f_size() -> int:
    return Federation(METHODS["fedsgd"]).space.D


@pytest.mark.parametrize("k", [0, 10_000])
def test_a_k_that_cannot_be_is_refused(k: int) -> None:
    with pytest.raises(ProjectionError, match=f"k = {k:,}; choose from 1 to D = 100"):
        LocalTopK.of(100, Sgd(), k)
    with pytest.raises(ProjectionError, match=f"k = {k:,}"):
        TrueTopK.of(100, k)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n=st.integers(1, 400), seed=st.integers(0, 2**32), levels=st.integers(1, 50))
def test_the_largest_are_found_first_ones_first(data: st.DataObject, n: int, seed: int, levels: int) -> None:
    k = data.draw(st.integers(1, n))
    x = (vector(n, seed) * levels).round()  # few levels: many ties
    assert torch.equal(largest(x, k), _sorted_top(x, k))


@pytest.mark.parametrize("k", [1, 500, 99_999, 199_999, 200_000])
@pytest.mark.parametrize("kind", ["normal", "sparse", "ascending", "constant", "zero", "nan"])
def test_the_largest_of_many_are_found_whatever_a_guess_would_say(kind: str, k: int) -> None:
    x = vector(200_000, 1)
    if kind == "sparse":
        x[torch.arange(200_000) % 64 != 5] = 0.0
    if kind == "ascending":
        x = torch.arange(200_000.0)
    if kind == "constant":
        x = torch.full_like(x, -3.0)
    if kind == "zero":
        x = torch.zeros_like(x)
    if kind == "nan":
        x[77] = torch.nan
    assert torch.equal(largest(x, k), _sorted_top(x, k))


def _sorted_top(x: Tensor, k: int) -> Tensor:
    magnitude = x.abs().nan_to_num(nan=torch.inf)
    return torch.argsort(magnitude, descending=True, stable=True)[:k].sort().values
