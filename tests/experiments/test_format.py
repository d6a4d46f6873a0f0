"""Numbers as a person reads them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igc.experiments.format import format_bytes, format_duration, format_factor, format_metric

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


@given(st.integers(0, 10**18 - 1))
def test_bytes_read_back_to_three_digits(count: int) -> None:
    number, unit = format_bytes(count).split()
    assert abs(float(number.replace(",", "")) * UNITS[unit] - count) <= 0.005 * count
    assert unit == "PB" or float(number) < 1000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (65_536, "65.5 kB"), (999_499, "999 kB"), (999_500, "1.00 MB")],
)
def test_bytes_at_the_edges(count: float, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(0, 10**6))
def test_durations_read_back(seconds: int) -> None:
    total = 0
    for part in format_duration(seconds).split(":"):
        total = total * 60 + int(part)
    assert total == seconds


@pytest.mark.parametrize(("factor", "text"), [(1386.4, "1,386x"), (12.34, "12.3x"), (0.998, "1.00x"), (math.nan, "-")])
def test_factors(factor: float, text: str) -> None:
    assert format_factor(factor) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.802, "0.8020"), (60.909, "60.91"), (1204.4, "1,204"), (None, "-"), (math.nan, "-"), (math.inf, "inf")],
)
def test_metrics(value: float | None, text: str) -> None:
    assert format_metric(value) == text


def test_a_time_that_nobody_knows() -> None:
    assert format_duration(math.nan) == "-"
