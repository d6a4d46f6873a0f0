"""What is finite, by one pass where that tells."""

from __future__ import annotations

import math

import pytest
import torch

from igc.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5)], ids=str)
def test_finite_numbers_are(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert all_finite(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_that_is_not_is_found(place: int, bad: float) -> None:
    numbers = torch.ones(1000)
    numbers[place] = bad
    assert not all_finite(numbers)


def test_infinities_do_not_cancel() -> None:
    assert not all_finite(torch.tensor([math.inf, -math.inf]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_sum_that_overflows_proves_nothing(dtype: torch.dtype) -> None:
    assert all_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype))
