"""PowerSGD against the code that ships with PyTorch, and what low-rank compression promises."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS
from igc.messages import Kind, Message, as_read
from igc.methods import Means, Sketch, Turn, Worker
from igc.methods.powersgd import Memory, PowerSgd, State
from igc.optim import Sgd
from igc.projection import Projection, Term
from igc.projection.theta import displacement
from support.federation import Federation
from support.powersgd import SHAPES, D, bowl, train_by_hook
from support.quadratic import QuadraticFederation, minimum, quadratics

RANKS = (1, 2, 3)
RATE = 0.1


class Slope(Worker):
    """A client whose gradient is any function of the displacement."""

    def __init__(self, gradient: Callable[[Tensor], Tensor]) -> None:
        self.gradient = gradient
        self.at = torch.zeros(D)

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self.at = displacement([*settled, *current], D)

    @override
    def sketch(self, projection: Projection) -> Sketch:
        return Sketch(projection.project(self.gradient(self.at)), 1, 0.5)


def step(
    method: PowerSgd,
    state: State,
    memories: list[Memory],
    slopes: Sequence[Callable[[Tensor], Tensor]],
    number: int,
    up: str = "float32",
) -> tuple[State, list[Memory], Tensor]:
    """One round of equal clients, by a codec: the new state and memories, and what the server stepped on."""
    download = Message(Kind.DOWNLOAD, number, method.download(state, Turn("c", number, 0, 1)))
    found = [method.upload(memory, download, Slope(g)) for memory, g in zip(memories, slopes, strict=True)]
    parts = [method.contribution(Message(Kind.UPLOAD, number, as_read(tensors, up))) for _, tensors in found]
    mean = torch.stack(parts).mean(0)
    state = method.update(state, Means({0: mean}, 0.5, ("c",)), number, RATE)
    return state, [memory for memory, _ in found], mean[:D]


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, bool], list[Tensor]]:
    """What PyTorch's hook makes of each gradient, by rank and error feedback."""
    path = tmp_path_factory.mktemp("hook") / "steps.pt"
    process = multiprocessing.get_context("spawn").Process(target=train_by_hook, args=(path, RANKS, 12, RATE))
    process.start()
    process.join(120)
    found: dict[tuple[int, bool], list[Tensor]] = torch.load(path)
    return found


@pytest.mark.parametrize("error_feedback", [True, False])
@pytest.mark.parametrize("rank", RANKS)
def test_one_client_trains_as_the_hook_of_pytorch(
    rank: int, error_feedback: bool, hooked: dict[tuple[int, bool], list[Tensor]]
) -> None:
    method = PowerSgd(SHAPES, Sgd(), rank, error_feedback, seed=4)
    state, memories = method.init(), [method.client_init()]
    gradient, theta = bowl(7), torch.zeros(D)
    for number, theirs in enumerate(hooked[rank, error_feedback]):
        theta = theta - RATE * theirs
        state, memories, mean = step(method, state, memories, [gradient], number)
        torch.testing.assert_close(mean, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state.displacement, theta, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(theta, torch.zeros(D), atol=0.1)


@pytest.mark.parametrize("up", [name for name in CODECS if name != "uint32"])
def test_an_upload_and_what_is_kept_make_the_gradient(up: str) -> None:
    method = PowerSgd(SHAPES, Sgd(), rank=2, up=up)
    state, memories, gradient = method.init(), [method.client_init()], bowl(1)
    owed = torch.zeros(D)
    for number in range(3):
        total = gradient(state.displacement) + owed
        state, memories, mean = step(method, state, memories, [gradient], number, up)
        owed = memories[0].error if memories[0].error is not None else torch.empty(0)
        torch.testing.assert_close(mean + owed, total, rtol=1e-4, atol=1e-4)
        assert 0.1 * total.norm() < owed.norm() < 1.0001 * total.norm()


@pytest.mark.parametrize("up", ["lloyd-1"])
def test_what_codecs_lose_comes_back(up: str) -> None:
    """Where the error does not know of the codec, it ends twice as far away, or farther."""
    clients = quadratics(4, 40, seed=1)
    best = minimum(clients)

    def end(told: str) -> float:
        method = PowerSgd(((8, 5),), Sgd(), rank=1, up=told)
        f = QuadraticFederation(method, clients, rate=lambda r: 0.05 if r < 150 else 0.005, up=up)
        return float(np.linalg.norm(f.run(300) - best))

    assert end(up) < 0.5 * end("float32")


@pytest.mark.parametrize("up", ["float32", "float16", "int8", "eden-1"])
def test_a_gradient_that_is_not_finite_leaves_no_error(up: str) -> None:
    method = PowerSgd(SHAPES, Sgd(), rank=2, up=up)
    download = Message(Kind.DOWNLOAD, 0, method.download(method.init(), Turn("c", 0, 0, 0)))
    overflown = torch.ones(D)
    overflown[-1] = torch.inf  # of a vector, which is sent whole
    memory, _ = method.upload(Memory(torch.ones(D)), download, Slope(lambda _: overflown))
    assert memory.error is None


def test_matrices_of_low_rank_arrive_whole_and_the_rest_always() -> None:
    generator = torch.Generator().manual_seed(0)
    pieces = []
    for shape in SHAPES:
        n, m = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        pieces.append((torch.randn(n, 2, generator=generator) @ torch.randn(2, m, generator=generator)).reshape(-1))
    gradient = torch.cat(pieces)
    method = PowerSgd(SHAPES, Sgd(), rank=2)
    _, (memory,), mean = step(method, method.init(), [method.client_init()], [lambda _: gradient], 0)
    torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-4)
    assert memory.error is not None
    assert memory.error.abs().max() < 1e-4


def test_clients_that_agree_count_as_one() -> None:
    """Signs are fixed: the mean of two equal Q' is that Q', also where one client's gradient is longer."""
    method = PowerSgd(SHAPES, Sgd(), rank=2, error_feedback=False)
    gradient = bowl(2)(torch.zeros(D))
    one, _, _ = step(method, method.init(), [Memory()], [lambda _: 2 * gradient], 0)
    two, _, _ = step(method, method.init(), [Memory()] * 2, [lambda _: gradient, lambda _: 3 * gradient], 0)
    torch.testing.assert_close(one.right, two.right, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.displacement, two.displacement, rtol=1e-4, atol=1e-5)


def test_a_matrix_without_a_gradient_keeps_its_q() -> None:
    method = PowerSgd(SHAPES, Sgd(), rank=2)
    before = method.init()
    after, _, mean = step(method, before, [Memory()], [torch.zeros_like], 0)
    assert torch.equal(after.right, before.right)
    assert not mean.any()


def test_what_would_not_shrink_is_sent_whole() -> None:
    method = PowerSgd(SHAPES, Sgd(), rank=2)
    assert [m.start for m in method.matrices] == [0, 54, 115]  # (8, 6), (5, 12), (7, 9), of ranks 2
    assert method.sizes == {"left": 2 * (8 + 5 + 7), "right": 2 * (6 + 12 + 9), "rest": 6 + 1 + 4}
    vectors = PowerSgd(((3,), (4,)), Sgd())
    assert vectors.due().keys() == {"rest", "weight", "loss"}
    assert vectors.download(vectors.init(), Turn("c", 0, 0, 1)).keys() == {"displacement"}


def test_a_federation_learns_and_pays_for_p_and_q_only() -> None:
    shapes = tuple(tuple(p.shape) for p in Federation(lambda p, o: PowerSgd(((p.D,),), o)).workplace.parameters)
    f = Federation(lambda p, o: PowerSgd(shapes, o, rank=2))
    results = f.run(30)
    assert results[-1].loss is not None and results[0].loss is not None
    assert results[-1].loss < results[0].loss
    numbers = 2 * (16 + 6) + (16 + 16 + 1)  # (16, 6) as P and Q; two biases and (1, 16) whole
    assert 4 * numbers < len(f.engine.up[0][2]) < 4 * numbers + 120
