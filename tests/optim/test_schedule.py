"""Schedules against torch.optim.lr_scheduler, and at their ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LinearLR,
    LRScheduler,
)

from igc.optim import Schedule

Shape = Literal["constant", "linear", "cosine"]
SHAPES: list[Shape] = ["constant", "linear", "cosine"]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def rates(peak: float, rounds: int, make: Callable[[Optimizer], LRScheduler]) -> list[float]:
    """What torch's scheduler gives in rounds 0 to ``rounds``."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = make(optimizer)
    found = []
    for _ in range(rounds + 1):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def decay(shape: Shape, peak: float, rounds: int, final: float) -> list[float]:
    if shape == "constant":
        return rates(peak, rounds, lambda o: LambdaLR(o, lambda _: 1.0))
    if shape == "linear":
        return rates(peak, rounds, lambda o: LinearLR(o, start_factor=1.0, end_factor=final, total_iters=rounds))
    return rates(peak, rounds, lambda o: CosineAnnealingLR(o, T_max=rounds, eta_min=peak * final))


@every_shape
@given(
    peak=st.floats(1e-6, 10),
    warmup=st.integers(0, 12),
    after=st.integers(1, 40),
    final=st.floats(0.0, 1.0),
)
def test_it_is_torchs_warm_up_followed_by_torchs_decay(
    shape: Shape, peak: float, warmup: int, after: int, final: float
) -> None:
    schedule = Schedule(peak, warmup + after, shape, warmup, final)
    expected = decay(shape, peak, after, final)
    if warmup > 1:
        first = rates(peak, warmup - 1, lambda o: LinearLR(o, 1 / warmup, total_iters=warmup - 1))
        expected = first + expected
    elif warmup == 1:
        expected = [peak, *expected]
    assert [schedule(r) for r in range(warmup + after + 1)] == pytest.approx(expected, rel=1e-6, abs=1e-9 * peak)


@every_shape
@given(warmup=st.integers(0, 9), after=st.integers(1, 30), final=st.floats(0.0, 1.0))
def test_it_rises_to_the_peak_and_never_again(shape: Shape, warmup: int, after: int, final: float) -> None:
    schedule = Schedule(0.5, warmup + after, shape, warmup, final)
    course = [schedule(r) for r in range(warmup + after + 5)]
    top = max(warmup - 1, 0)
    assert course[top] == max(course) == schedule(warmup) == 0.5
    assert course[:top] == sorted(course[:top])
    assert all(rate > 0 for rate in course[:top])
    assert course[top:] == sorted(course[top:], reverse=True)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_beyond_the_last_round_it_stays_at_the_end(shape: Shape) -> None:
    schedule = Schedule(0.2, 10, shape, 3, 0.25)
    assert [schedule(r) for r in (10, 11, 1000)] == pytest.approx([0.05] * 3)


@every_shape
@pytest.mark.parametrize("warmup", [4, 5, 9])
def test_a_warm_up_as_long_as_the_training_only_rises(shape: Shape, warmup: int) -> None:
    schedule = Schedule(1.0, 4, shape, warmup)
    assert [schedule(r) for r in range(4)] == pytest.approx([(r + 1) / warmup for r in range(4)])


@given(peak=st.floats(1e-6, 10), cycle=st.integers(1, 20), final=st.floats(0.0, 1.0), rounds=st.integers(1, 70))
def test_warm_restarts_of_the_cosine_are_torchs(peak: float, cycle: int, final: float, rounds: int) -> None:
    schedule = Schedule(peak, cycle, "cosine", final_fraction=final, restarts=True)
    expected = rates(peak, rounds, lambda o: CosineAnnealingWarmRestarts(o, T_0=cycle, eta_min=peak * final))
    assert [schedule(r) for r in range(rounds + 1)] == pytest.approx(expected, rel=1e-6, abs=1e-9 * peak)


@every_shape
def test_every_cycle_is_the_first_one_warm_up_included(shape: Shape) -> None:
    once, again = Schedule(0.5, 9, shape, 3, 0.1), Schedule(0.5, 9, shape, 3, 0.1, restarts=True)
    assert [again(r) for r in range(40)] == [once(r % 9) for r in range(40)]
    assert again(9) < again(12)
