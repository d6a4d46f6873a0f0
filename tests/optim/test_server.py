"""Server optimizers against torch.optim."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from igc.optim import Adam, OptimizerState, ServerOptimizer, Sgd

Peer = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
PAIRS: dict[str, tuple[ServerOptimizer, Peer]] = {
    "sgd": (Sgd(), lambda p, lr: torch.optim.SGD(p, lr=lr)),
    "momentum": (Sgd(momentum=0.9), lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    "adam": (Adam(), lambda p, lr: torch.optim.Adam(p, lr=lr)),
    "adam-other-settings": (
        Adam(beta1=0.5, beta2=0.9, epsilon=1e-3),
        lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.9), eps=1e-3),
    ),
}
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


def tensors_of(state: OptimizerState) -> list[Tensor]:
    return [value for value in (state.first, state.second) if value is not None]


@pairs
def test_nothing_that_goes_in_is_changed(ours: ServerOptimizer, peer: Peer) -> None:
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


@pairs
def test_what_comes_out_is_not_what_went_in(ours: ServerOptimizer, peer: Peer) -> None:
    sigma, mean = torch.ones(5), torch.ones(5)
    _, moved = ours.update(ours.init(sigma), sigma, mean, 0.1)
    moved.zero_()
    assert torch.equal(sigma, torch.ones(5))
    assert torch.equal(mean, torch.ones(5))


@pairs
def test_rows_do_not_touch_one_another(ours: ServerOptimizer, peer: Peer) -> None:
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
    assert len(tensors_of(Adam().init(sigma))) == 2
