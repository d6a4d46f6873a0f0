"""The ladder of learning rates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igc.experiments.compare.search import STEP, best_rung, next_rung, rung


def climb(height: dict[int, float], trials: int, *, higher_is_better: bool) -> dict[int, float]:
    scores: dict[int, float] = {}
    while (step := next_rung(scores, trials, higher_is_better=higher_is_better)) is not None:
        assert step not in scores
        scores[step] = height.get(step, math.nan)
    return scores


@given(st.integers(-3, 3), st.booleans())
def test_a_single_peak_is_found_from_afar(peak: int, higher: bool) -> None:
    height = {step: (-1 if higher else 1) * float(abs(step - peak)) for step in range(-20, 21)}
    scores = climb(height, 12, higher_is_better=higher)
    assert best_rung(scores, higher_is_better=higher) == peak
    assert {peak - 1, peak + 1} <= scores.keys()  # it knows that it is a peak


@given(st.dictionaries(st.integers(-6, 6), st.floats(0, 1)), st.integers(2, 6))
def test_no_one_tries_more_than_others(height: dict[int, float], trials: int) -> None:
    scores = climb(height, trials, higher_is_better=True)
    assert 1 <= len(scores) <= trials
    assert 0 in scores


def test_training_that_breaks_down_asks_for_smaller_steps() -> None:
    scores = climb({-2: 0.8, -3: 0.7}, 4, higher_is_better=True)
    assert list(scores) == [0, -1, -2, -3]
    assert best_rung(scores, higher_is_better=True) == -2


def test_of_equals_the_smallest() -> None:
    assert best_rung({0: 0.5, 1: 0.5, -1: 0.5}, higher_is_better=True) == -1
    assert best_rung({0: math.nan, 1: 0.5}, higher_is_better=False) == 1


def test_rates_are_numbers_that_people_read() -> None:
    assert rung(5e-4, 0) == 5e-4
    assert rung(5e-4, 1) == 1.58e-3
    assert rung(1.0, 2) == pytest.approx(STEP**2)
