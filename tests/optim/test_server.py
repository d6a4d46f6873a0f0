"""Server optimizers against torch.optim, and against published formulas where torch has none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from igc.optim import Adagrad, Adam, OptimizerState, ServerOptimizer, Sgd, Yogi, carried

Peer = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
PAIRS: dict[str, tuple[ServerOptimizer, Peer]] = {
    "sgd": (Sgd(), lambda p, lr: torch.optim.SGD(p, lr=lr)),
    "momentum": (Sgd(momentum=0.9), lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    "adam": (Adam(), lambda p, lr: torch.optim.Adam(p, lr=lr)),
    "adam-other-settings": (
        Adam(beta1=0.5, beta2=0.9, epsilon=1e-3),
        lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.9), eps=1e-3),
    ),
    "adagrad": (
        Adagrad(),
        lambda p, lr: torch.optim.Adagrad(p, lr=lr, initial_accumulator_value=1e-16, eps=1e-8),
    ),
    "adagrad-tau": (
        Adagrad(epsilon=0.1),
        lambda p, lr: torch.optim.Adagrad(p, lr=lr, initial_accumulator_value=0.1**2, eps=0.1),
    ),
}
RULES: dict[str, ServerOptimizer] = {name: ours for name, (ours, _) in PAIRS.items()} | {"yogi": Yogi()}
rules = pytest.mark.parametrize("ours", RULES.values(), ids=RULES.keys())
pairs = pytest.mark.parametrize(("ours", "peer"), PAIRS.values(), ids=PAIRS.keys())
shapes = st.sampled_from([(1,), (7,), (3, 5), (1, 4)])


@pairs
@settings(max_examples=25)
@given(shape=shapes, rates=st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=12), seed=st.integers(0, 2**32))
def test_the_trajectory_is_that_of_torch(
    ours: ServerOptimizer, peer: Peer, shape: tuple[int, ...], rates: list[float], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.randn(shape, generator=generator)
    parameter = nn.Parameter(sigma.clone())
    optimizer = peer([parameter], 1.0)
    state = ours.init(sigma)
    for rate in rates:
        mean = torch.randn(shape, generator=generator)
        parameter.grad = mean.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        state, sigma = ours.update(state, sigma, mean, rate)
        torch.testing.assert_close(sigma, parameter.detach(), rtol=1e-4, atol=1e-5)
    assert state.steps == len(rates)


def test_momentum_may_change_half_way() -> None:
    """As in a run that is resumed after its recipe was edited; a velocity that was dropped begins at zero."""
    means = [torch.full((3,), number) for number in (1.0, 10.0, 100.0, 1000.0, 10_000.0)]
    state, sigma = Sgd().init(torch.zeros(3)), torch.zeros(3)
    velocities = []
    for momentum, mean in zip((0.0, 0.5, 0.5, 0.0, 0.5), means, strict=True):
        state, moved = Sgd(momentum).update(state, sigma, mean, 1.0)
        velocities.append(float((sigma - moved)[0]))
        sigma = moved
    assert velocities == [1, 10, 105, 1000, 10_000]
    assert state.steps == 5


def yogi(
    x: npt.NDArray[np.float64], gradients: list[npt.NDArray[np.float64]], rates: list[float], settings: Yogi
) -> npt.NDArray[np.float64]:
    """Reddi et al., ICLR 2021, algorithm 2, "FedYogi", with Delta the negative of our gradient."""
    tau = settings.epsilon
    m, v = np.zeros_like(x), np.full_like(x, tau**2)
    for g, eta in zip(gradients, rates, strict=True):
        delta = -g
        m = settings.beta1 * m + (1 - settings.beta1) * delta
        v = v - (1 - settings.beta2) * delta**2 * np.sign(v - delta**2)
        x = x + eta * m / (np.sqrt(v) + tau)
    return x


@settings(max_examples=40)
@given(
    rates=st.lists(st.floats(1e-4, 0.5), min_size=1, max_size=12),
    seed=st.integers(0, 2**32),
    rule=st.sampled_from([Yogi(), Yogi(epsilon=1e-3), Yogi(beta1=0.5, beta2=0.9, epsilon=0.1)]),
)
def test_yogi_is_that_of_the_paper(rates: list[float], seed: int, rule: Yogi) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(7, generator=generator)
    # Gradients that grow and shrink, so that mean squares are led both up and down.
    means = [torch.randn(7, generator=generator) * 10 ** (i % 3 - 1) for i in range(len(rates))]
    state, sigma = rule.init(start), start
    for mean, rate in zip(means, rates, strict=True):
        state, sigma = rule.update(state, sigma, mean, rate)
    expected = yogi(start.double().numpy(), [mean.double().numpy() for mean in means], rates, rule)
    torch.testing.assert_close(sigma.double(), torch.from_numpy(expected), rtol=1e-3, atol=1e-4)


def test_yogi_forgets_a_large_gradient_more_slowly_than_adam() -> None:
    sigma, large, small = torch.zeros(1), torch.full((1,), 100.0), torch.full((1,), 0.1)
    second = {}
    for name, rule in {"yogi": Yogi(beta2=0.9), "adam": Adam(beta2=0.9)}.items():
        state = rule.init(sigma)
        for mean in [large, *[small] * 50]:
            state, sigma = rule.update(state, sigma, mean, 0.0)
        assert state.second is not None
        second[name] = float(state.second)
    assert second["adam"] < 10
    assert second["yogi"] > 900


@rules
def test_what_a_new_subspace_begins_with(ours: ServerOptimizer) -> None:
    sigma = torch.ones(4)
    fresh = ours.init(sigma)
    used = fresh
    for step in range(3):
        used, sigma = ours.update(used, sigma, torch.full((4,), step + 1.0), 0.1)
    assert carried(used, fresh, "reset") is fresh
    assert carried(used, fresh, "carry-over") is used
    scaled = carried(used, fresh, "carry-scale")
    assert scaled.first is fresh.first
    assert scaled.second is used.second
    assert scaled.steps == 3
    if used.second is not None and used.first is not None:
        # The first step is then small, as the mean of gradients builds up again, and never larger than the rate.
        _, moved = ours.update(scaled, sigma, torch.full((4,), 3.0), 0.1)
        assert 0 < float((sigma - moved).abs().max()) < 0.1


def tensors_of(state: OptimizerState) -> list[Tensor]:
    return [value for value in (state.first, state.second) if value is not None]


@rules
def test_nothing_that_goes_in_is_changed(ours: ServerOptimizer) -> None:
    sigma, mean = torch.ones(5), torch.full((5,), 2.0)
    state, _ = ours.update(ours.init(sigma), sigma, mean, 0.1)
    kept = [value.clone() for value in (sigma, mean, *tensors_of(state))]
    once = ours.update(state, sigma, mean, 0.1)
    later, moved = once
    ours.update(later, moved, mean, 0.1)
    for value, before in zip((sigma, mean, *tensors_of(state)), kept, strict=True):
        assert torch.equal(value, before)
    # The same step again, from the same state, is the same step.
    again = ours.update(state, sigma, mean, 0.1)
    assert torch.equal(again[1], once[1])
    assert again[0].steps == once[0].steps == 2


@rules
def test_what_comes_out_is_not_what_went_in(ours: ServerOptimizer) -> None:
    sigma, mean = torch.ones(5), torch.ones(5)
    _, moved = ours.update(ours.init(sigma), sigma, mean, 0.1)
    moved.zero_()
    assert torch.equal(sigma, torch.ones(5))
    assert torch.equal(mean, torch.ones(5))


@rules
def test_rows_do_not_touch_one_another(ours: ServerOptimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 4, generator=generator)
    state, sigma = ours.init(rows), rows
    alone_state, alone = ours.init(rows[1]), rows[1]
    for _ in range(4):
        mean = torch.randn(3, 4, generator=generator)
        state, sigma = ours.update(state, sigma, mean, 0.1)
        alone_state, alone = ours.update(alone_state, alone, mean[1], 0.1)
    torch.testing.assert_close(sigma[1], alone)


def test_an_optimizer_keeps_no_more_than_it_needs() -> None:
    sigma = torch.ones(3)
    assert tensors_of(Sgd().update(Sgd().init(sigma), sigma, sigma, 0.1)[0]) == []
    assert len(tensors_of(Sgd(momentum=0.5).init(sigma))) == 1
    assert len(tensors_of(Adam().init(sigma))) == len(tensors_of(Yogi().init(sigma))) == 2
    assert len(tensors_of(Adagrad().init(sigma))) == 1
