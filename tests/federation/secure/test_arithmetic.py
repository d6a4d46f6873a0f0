"""Quantiser, masks and shares: whole numbers that never wrap around, and secrets that come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igc.errors import DataError
from igc.federation.secure import crypto
from igc.federation.secure.quantiser import Quantiser
from igc.federation.secure.settings import SecureSettings


@given(
    st.integers(2, 5000),
    st.floats(1e-6, 1e6),
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1e-9, 0.3, 1.0, 2.0]), min_size=1, max_size=8),
    st.booleans(),
)
def test_sums_of_a_whole_cohort_at_the_bound_do_not_wrap_around(
    cohort: int, reach: float, shares: list[float], alike: bool
) -> None:
    quantiser = Quantiser(reach, SecureSettings(cohort).levels)
    vectors = np.array([np.roll(shares, 0 if alike else i % 3) for i in range(cohort)]) * reach
    total = np.zeros(len(shares), dtype=np.uint32)
    exact = np.zeros(len(shares), dtype=object)
    for vector in vectors:
        levels = quantiser.encode(vector)
        total += levels
        exact += levels.astype(object)
    assert (exact < 2**32).all() and (exact == total).all()
    expected = np.clip(vectors, -reach, reach).sum(axis=0)
    np.testing.assert_allclose(
        quantiser.decode_sum(total, cohort), expected, rtol=0, atol=cohort * quantiser.step * (0.5 + 1e-6)
    )


@given(st.integers(2, 2**24))
def test_a_cohort_of_largest_levels_just_fits(cohort: int) -> None:
    settings = SecureSettings(cohort)
    assert cohort * settings.levels < 2**32 <= 2 * cohort * (settings.levels + 1)


def test_settings_that_would_wrap_around_are_refused() -> None:
    with pytest.raises(DataError, match=r"secure\.bits = 31: .*at most 28"):
        SecureSettings(10, bits=31)
    with pytest.raises(DataError, match=r"secure\.max_weight .* at most 42,949,672"):
        SecureSettings(100, max_weight=42_949_673)
    with pytest.raises(DataError, match="leaves 7 bits"):
        SecureSettings(2**24 + 1)


@given(st.binary(min_size=32, max_size=32), st.integers(2, 9), st.data())
def test_any_so_many_shares_bring_a_secret_back_and_one_fewer_do_not(
    secret: bytes, count: int, data: st.DataObject
) -> None:
    needed = data.draw(st.integers(2, count))
    shares = list(enumerate(crypto.split(secret, needed, count)))
    chosen = data.draw(st.permutations(shares))
    assert crypto.combine(chosen[:needed]) == secret
    if needed > 2:
        assert crypto.combine(chosen[: needed - 1]) != secret


def test_both_sides_agree_on_a_key_and_purposes_do_not_share_it() -> None:
    one, other = b"1" * 32, b"2" * 32
    assert crypto.agree(one, crypto.public(other), "mask") == crypto.agree(other, crypto.public(one), "mask")
    assert crypto.agree(one, crypto.public(other), "mask") != crypto.agree(one, crypto.public(other), "box")


def test_masks_are_the_keystream_of_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, nonce and counter of zeros."""
    assert crypto.mask(bytes(32), 4).astype("<u4").tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"


@given(st.integers(3, 60), st.integers(3, 20))
def test_neighbours_are_mutual_and_as_many_as_asked_for(count: int, shares: int) -> None:
    settings = SecureSettings(100, shares=shares)
    around = [settings.neighbours(i, count) for i in range(count)]
    for i, neighbours in enumerate(around):
        assert i not in neighbours and len(set(neighbours)) == len(neighbours)
        assert all(i in around[j] for j in neighbours)
        assert len(neighbours) == (count - 1 if shares >= count else 2 * (shares // 2))


@given(st.integers(2, 50), st.floats(0.5, 1.0, exclude_min=True))
def test_more_than_half_of_the_holders_are_needed(holders: int, threshold: float) -> None:
    needed = SecureSettings(50, threshold=threshold).needed(holders)
    assert holders / 2 < needed <= holders
