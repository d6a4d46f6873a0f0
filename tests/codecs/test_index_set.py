"""Index sets: round trips, lengths against the entropy, and codes that no set has."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.codecs import CodecError
from igc.codecs.index_set import index_words, pack_indices, unpack_indices


def draw(n: int, D: int, seed: int = 0) -> Tensor:
    """N different indices below D, in order."""
    return torch.randperm(D, generator=torch.Generator().manual_seed(seed))[:n].sort().values


@settings(max_examples=100, deadline=None)
@given(data=st.data(), D=st.integers(1, 5000), seed=st.integers(0, 2**32))
def test_what_is_packed_is_what_is_unpacked_in_as_many_words_as_said(data: st.DataObject, D: int, seed: int) -> None:
    n = data.draw(st.integers(1, D))
    indices = draw(n, D, seed)
    words = pack_indices(indices, D)
    assert words.shape == (index_words(n, D),)
    assert 0 <= int(words.min()) <= int(words.max()) < 2**32
    assert torch.equal(unpack_indices(words, n, D), indices)


@pytest.mark.parametrize("indices", [[0], [99], [0, 1, 2, 3], [96, 97, 98, 99], list(range(100))])
def test_the_ends_are_indices_like_others(indices: list[int]) -> None:
    words = pack_indices(torch.tensor(indices), 100)
    assert unpack_indices(words, len(indices), 100).tolist() == indices


@pytest.mark.parametrize("n", [1, 100, 10_000, 50_000, 500_000, 3_000_000, 6_568_640])
def test_no_set_takes_much_more_than_its_entropy_nor_more_than_a_bitmap_or_uint32(n: int) -> None:
    D = 6_568_640
    entropy = (math.lgamma(D + 1) - math.lgamma(n + 1) - math.lgamma(D - n + 1)) / math.log(2)
    bits = 32 * index_words(n, D)
    assert entropy <= bits <= min(D + 31, 32 * (n + 1), 1.2 * entropy + 64 if n < D / 10 else math.inf)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), D=st.integers(1, 300))
def test_any_words_are_refused_or_are_the_code_of_a_set(data: st.DataObject, D: int) -> None:
    n = data.draw(st.integers(1, D))
    count = index_words(n, D)
    words = torch.tensor(data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)))
    try:
        found = unpack_indices(words, n, D)
    except CodecError:
        return
    assert torch.equal(pack_indices(found, D), words)
    assert found.numel() == n
    assert bool((found.diff() > 0).all())
    assert 0 <= int(found[0]) <= int(found[-1]) < D


def elias_fano(indices: list[int], D: int) -> Tensor:
    """The code of any list, by the definition, one bit after the other."""
    n = len(indices)
    low = (D // n).bit_length() - 1
    lows = [i >> k & 1 for i in indices for k in range(low)]
    highs = [0] * (n + ((D - 1) >> low))
    for j, i in enumerate(indices):
        highs[(i >> low) + j] = 1
    return torch.tensor([word for bits in (lows, highs) for word in _words(bits)])


def _words(bits: list[int]) -> list[int]:
    padded = bits + [0] * (-len(bits) % 32)
    return [sum(bit << k for k, bit in enumerate(padded[at : at + 32])) for at in range(0, len(padded), 32)]


def test_the_code_is_elias_fano() -> None:
    assert torch.equal(pack_indices(torch.tensor([3, 70, 71, 999]), 1000), elias_fano([3, 70, 71, 999], 1000))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([3, 70, 70, 999], "index 70 comes twice"),
        ([3, 71, 70, 999], "index 71 comes before 70"),
        ([3, 70, 71, 1001], "index 1,001 is not below 1,000"),
    ],
)
def test_lists_that_are_no_sets_are_refused_by_name(indices: list[int], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        unpack_indices(elias_fano(indices, 1000), 4, 1000)


def test_other_defects_are_refused_by_name() -> None:
    words = pack_indices(torch.tensor([3, 70, 71, 999]), 1000)
    with pytest.raises(CodecError, match="3 words where 4 indices below 1,000 take 2"):
        unpack_indices(torch.cat([words, words[:1]]), 4, 1000)
    few = words.clone()
    few[-1] &= few[-1] - 1
    with pytest.raises(CodecError, match="3 indices where there are 4 values"):
        unpack_indices(few, 4, 1000)
    late = words.clone()
    late[-1] |= 2**31
    with pytest.raises(CodecError, match="after the last index"):
        unpack_indices(late, 4, 1000)
    full = pack_indices(torch.arange(90), 100)
    with pytest.raises(CodecError, match="89 indices where there are 90"):
        unpack_indices(torch.cat([full[:1] - 1, full[1:]]), 90, 100)
