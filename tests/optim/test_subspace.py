"""The subspace optimizer against the dense matrix and against autograd through theta_0 + A sigma."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector
from torch.optim.lr_scheduler import StepLR

from igc.errors import ProjectionError, SpaceError
from igc.optim import SubspaceOptimizer
from igc.projection import BlockedHadamard, Projection, make_projection, to_dense
from igc.space import ParameterSpace
from support.strategies import COMPRESSING, make

WIDTH, DIM, STEPS = 6, 12, 8
Inner = Callable[[list[Tensor]], torch.optim.Optimizer]


def small_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2)).to(dtype)


def batches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(9)
    return [
        (torch.randn(5, 3, generator=generator).to(dtype), torch.randn(5, 2, generator=generator).to(dtype))
        for _ in range(STEPS)
    ]


def loss_of(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().sum(1).mean()


def flat(model: nn.Module) -> Tensor:
    return parameters_to_vector(model.parameters()).detach().clone()


def projection_for(model: nn.Module, family: str = "blocked-hadamard") -> Projection:
    return make(family, flat(model).numel(), DIM, 4)


def train(optimizer: SubspaceOptimizer, model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Train, and give theta after each step."""
    path = []
    for x, y in data:
        loss_of(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        path.append(flat(model))
    return path


def reference(
    sigma_to_theta: Callable[[Tensor], Tensor], like: nn.Module
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss as a function of sigma, in float64, by functional_call on the model's own code."""
    shapes = [(name, p.shape, p.numel()) for name, p in like.named_parameters()]

    def loss(sigma: Tensor, x: Tensor, y: Tensor) -> Tensor:
        pieces = torch.split(sigma_to_theta(sigma), [size for _, _, size in shapes])
        named = {name: piece.view(shape) for (name, shape, _), piece in zip(shapes, pieces, strict=True)}
        prediction: Tensor = functional_call(like, named, (x.double(),))
        return loss_of(prediction, y.double())

    return loss


@pytest.mark.parametrize("family", COMPRESSING)
def test_sgd_on_sigma_is_compressed_gradient_descent_on_theta(family: str) -> None:
    model = small_model()
    projection = projection_for(model, family)
    optimizer = SubspaceOptimizer(model, projection, lambda p: torch.optim.SGD(p, lr=0.1))
    theta = flat(model).double().requires_grad_()
    A = to_dense(projection).double()
    loss = reference(lambda whole: whole, small_model().double())
    for (x, y), found in zip(batches(), train(optimizer, model, batches()), strict=True):
        (g,) = torch.autograd.grad(loss(theta, x, y), theta)
        theta = (theta - 0.1 * A @ (A.T @ g)).detach().requires_grad_()
        torch.testing.assert_close(found.double(), theta.detach(), rtol=1e-4, atol=1e-5)
    assert (theta - flat(small_model())).norm() > 0.1  # it went somewhere


INNERS: dict[str, Inner] = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("make", INNERS.values(), ids=INNERS.keys())
def test_any_optimizer_is_that_optimizer_on_the_reparametrised_model(make: Inner) -> None:
    model = small_model()
    projection = projection_for(model)
    base, A = flat(model).double(), to_dense(projection).double()
    optimizer = SubspaceOptimizer(model, projection, make)
    sigma = nn.Parameter(torch.zeros(DIM, dtype=torch.float64))
    twin = make([sigma])
    loss = reference(lambda s: base + A @ s, small_model().double())
    for x, y in batches():
        train(optimizer, model, [(x, y)])
        twin.zero_grad()
        loss(sigma, x, y).backward()  # type: ignore[no-untyped-call]
        twin.step()
        torch.testing.assert_close(optimizer.sigma.detach().double(), sigma.detach(), rtol=1e-3, atol=1e-4)


def test_schedulers_attach_to_the_inner_optimizer() -> None:
    model = small_model()
    projection = projection_for(model)
    optimizer = SubspaceOptimizer(model, projection, lambda p: torch.optim.SGD(p, lr=0.2))
    scheduler = StepLR(optimizer.inner, step_size=2, gamma=0.1)
    lengths = []
    for x, y in batches()[:4]:
        before = optimizer.sigma.detach().clone()
        loss_of(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert optimizer.sigma.grad is not None
        lengths.append(((optimizer.sigma.detach() - before).norm() / optimizer.sigma.grad.norm()).item())
        optimizer.zero_grad()
        scheduler.step()
    assert lengths == pytest.approx([0.2, 0.2, 0.02, 0.02], rel=1e-3)


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """A state through a file, as a user keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


@pytest.mark.parametrize("make", INNERS.values(), ids=INNERS.keys())
@pytest.mark.parametrize("keep", [saved, lambda state: state], ids=["file", "memory"])
def test_a_state_goes_on_bit_for_bit(make: Inner, keep: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    data = batches()
    model = small_model()
    optimizer = SubspaceOptimizer(model, projection_for(model), make)
    train(optimizer, model, data[:4])
    state = keep(optimizer.state_dict())
    straight = train(optimizer, model, data[4:])

    fresh = small_model()
    again = SubspaceOptimizer(fresh, projection_for(fresh), make)
    train(again, fresh, data[:2])  # where it was before it is loaded does not matter
    again.load_state_dict(state)
    for found, expected in zip(train(again, fresh, data[4:]), straight, strict=True):
        assert torch.equal(found, expected)


def test_a_state_is_small() -> None:
    model = small_model()
    optimizer = SubspaceOptimizer(model, projection_for(model), torch.optim.Adam)
    train(optimizer, model, batches()[:1])
    state = optimizer.state_dict()
    moments = [v for s in state["inner"]["state"].values() for v in s.values() if isinstance(v, Tensor)]
    assert max(value.numel() for value in [state["sigma"], *moments]) == DIM


def test_a_state_of_another_projection_or_model_is_refused_and_nothing_moves() -> None:
    model = small_model()
    optimizer = SubspaceOptimizer(model, projection_for(model), lambda p: torch.optim.SGD(p, lr=0.1))
    train(optimizer, model, batches()[:2])
    before = flat(model)
    state = optimizer.state_dict()
    with pytest.raises(ProjectionError, match="belongs to"):
        optimizer.load_state_dict({**state, "projection": {**state["projection"], "seed": 5}})
    with pytest.raises(ProjectionError, match="belongs to"):
        optimizer.load_state_dict({**state, "fingerprint": "00" * 8})
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize("rows", [-1, 1])
def test_a_projection_of_another_size_is_refused_at_once(rows: int) -> None:
    model = small_model()
    before = flat(model)
    with pytest.raises(ProjectionError, match=f"do not fit the {len(before) + rows} rows"):
        SubspaceOptimizer(model, BlockedHadamard(D=len(before) + rows, d=4, seed=0), torch.optim.SGD)
    assert torch.equal(flat(model), before)


def test_a_space_of_another_model_is_refused() -> None:
    model = small_model()
    with pytest.raises(SpaceError):
        SubspaceOptimizer(model, projection_for(model), torch.optim.SGD, ParameterSpace.of(nn.Linear(3, 3)))


def test_only_the_tensors_of_the_space_move() -> None:
    model = small_model()
    space = ParameterSpace.of(model, exclude=["0.*"])
    first, last = parameters_to_vector(model[0].parameters()), parameters_to_vector(model[2].parameters())
    projection = BlockedHadamard(D=space.D, d=4, seed=0)
    optimizer = SubspaceOptimizer(model, projection, lambda p: torch.optim.SGD(p, lr=0.1), space)
    kept, left = first.detach().clone(), last.detach().clone()
    train(optimizer, model, batches()[:2])
    assert torch.equal(parameters_to_vector(model[0].parameters()), kept)
    assert not torch.equal(parameters_to_vector(model[2].parameters()), left)


def test_a_step_without_backward_is_refused() -> None:
    model = small_model()
    optimizer = SubspaceOptimizer(model, projection_for(model), lambda p: torch.optim.SGD(p, lr=0.1))
    with pytest.raises(ProjectionError, match="backward"):
        optimizer.step()


def test_bfloat16_parameters_are_theta_0_plus_a_sigma_rounded_once() -> None:
    model = small_model(torch.bfloat16)
    projection = projection_for(model)
    base = flat(model)
    optimizer = SubspaceOptimizer(model, projection, lambda p: torch.optim.SGD(p, lr=0.1))
    train(optimizer, model, batches(torch.bfloat16))
    assert optimizer.sigma.dtype == torch.float32
    exact = base.double() + to_dense(projection).double() @ optimizer.sigma.detach().double()
    found = flat(model)
    assert found.dtype == torch.bfloat16
    # Half a unit in the last of bfloat16's eight bits, and float32's rounding.
    assert ((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
    assert not torch.equal(found, base)


def test_steps_too_small_for_bfloat16_add_up() -> None:
    layer = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    projection = make_projection("partition", D=16, d=16, seed=0)
    optimizer = SubspaceOptimizer(layer, projection, lambda p: torch.optim.SGD(p, lr=1e-4))
    for _ in range(200):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
    # 200 steps of 1e-4, each a fortieth of what bfloat16 resolves at 1, come to 0.02.
    torch.testing.assert_close(layer.weight.float(), torch.full((4, 4), 0.98), rtol=0, atol=2**-8)


def test_a_model_moved_in_place_is_read_again_every_so_many_steps() -> None:
    model = small_model()
    reads: list[int] = []

    def reload() -> list[Tensor]:
        reads.append(len(reads))
        return list(small_model().parameters())

    projection = projection_for(model)
    lean = SubspaceOptimizer(
        model, projection, lambda p: torch.optim.Adam(p, lr=0.1), in_place=True, reload=reload, every=3
    )
    train(lean, model, batches())
    assert len(reads) == STEPS // 4  # three moves, then one from the base
    lean.resync_()
    dense = to_dense(projection).double()
    truth = flat(small_model()).double() + dense @ lean.sigma.detach().double()
    torch.testing.assert_close(flat(model).double(), truth, rtol=0, atol=1e-6)


def test_reload_belongs_to_in_place() -> None:
    model = small_model()
    with pytest.raises(ProjectionError, match="in_place=True"):
        SubspaceOptimizer(
            model, projection_for(model), lambda p: torch.optim.SGD(p, lr=0.1), reload=lambda: list(model.parameters())
        )
    lean = SubspaceOptimizer(model, projection_for(model), lambda p: torch.optim.SGD(p, lr=0.1), in_place=True)
    with pytest.raises(ProjectionError, match="reload"):
        lean.resync_()
