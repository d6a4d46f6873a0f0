"""The search for d, on problems whose answer is known."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from igc.experiments.dimension.search import Bracket, bracket, next_dim
from igc.projection import BlockedHadamard, to_dense


def search(
    well: list[bool] | None = None, *, threshold: int = 0, start: int, largest: int, resolution: float
) -> dict[int, bool]:
    tried: dict[int, bool] = {}
    while (d := next_dim(tried, start, largest, resolution)) is not None:
        assert d not in tried
        assert 1 <= d <= largest
        tried[d] = well[d - 1] if well else d >= threshold
    return tried


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(1.01, 4))
def test_a_threshold_is_found_within_the_resolution(threshold: int, start: int, resolution: float) -> None:
    tried = search(threshold=threshold, start=start, largest=10**6, resolution=resolution)
    fails, reaches = bracket(tried)
    assert reaches is not None
    assert reaches >= threshold
    if fails is None:
        assert reaches == 1
    else:
        assert fails < threshold
        assert reaches - fails == 1 or reaches <= resolution * fails
    assert len(tried) <= 12 + 2 * 20 / (resolution - 1)


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 300), st.floats(1.01, 4))
def test_noise_does_not_keep_it_from_ending(well: list[bool], start: int, resolution: float) -> None:
    tried = search(well, start=start, largest=len(well), resolution=resolution)
    assert len(tried) <= len(well)


def test_no_d_reaches_it() -> None:
    tried = search(threshold=5000, start=10, largest=1000, resolution=1.2)
    assert bracket(tried) == Bracket(1000, None)


def test_a_quadratic_of_known_rank() -> None:
    """|B theta - y|^2 with B of rank r, isotropic: a random subspace of d < r dimensions removes d / r of the loss."""
    D, r, target = 1500, 100, 0.9
    generator = torch.Generator().manual_seed(0)
    B = torch.linalg.qr(torch.randn(D, r, generator=generator, dtype=torch.float64)).Q.T
    y = torch.randn(r, generator=generator, dtype=torch.float64)

    def gain(d: int) -> float:
        A = to_dense(BlockedHadamard(D=D, d=d, seed=1)).double()
        rest = y - B @ A @ torch.linalg.lstsq(B @ A, y).solution
        return 1 - float(rest.square().sum() / y.square().sum())

    tried: dict[int, bool] = {}
    while (d := next_dim(tried, 4, D, 1.02)) is not None:
        tried[d] = gain(d) >= target
    found = bracket(tried).reaches
    assert found is not None
    assert abs(found - target * r) <= 6
