"""Sampling: each client once an epoch, or uniformly; a function of seed and round alone."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from igc.errors import DataError
from igc.federation import Dropout, Sampler

sizes = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
seeds = st.integers(0, 2**63)


def names(n: int) -> tuple[str, ...]:
    return tuple(f"client {i}" for i in range(n))


@settings(max_examples=60)
@given(size=sizes, seed=seeds, epoch=st.integers(0, 1000))
def test_each_client_takes_part_once_an_epoch(size: tuple[int, int], seed: int, epoch: int) -> None:
    n, w = size
    sampler = Sampler(names(n), w, seed)
    rounds = [sampler.sample(epoch * sampler.rounds_per_epoch + r) for r in range(sampler.rounds_per_epoch)]
    assert sorted(client for drawn in rounds for client in drawn) == sorted(names(n))
    assert [len(drawn) for drawn in rounds[:-1]] == [w] * (len(rounds) - 1)
    assert len(rounds[-1]) == (n % w or w)


@settings(max_examples=60)
@given(size=sizes, seed=seeds, number=st.integers(0, 10**6))
def test_uniform_draws_are_distinct_and_of_one_size(size: tuple[int, int], seed: int, number: int) -> None:
    n, w = size
    drawn = Sampler(names(n), w, seed, "uniform").sample(number)
    assert len(drawn) == len(set(drawn)) == w
    assert set(drawn) <= set(names(n))


@settings(max_examples=60)
@given(size=sizes, seed=seeds, number=st.integers(0, 30), epochs=st.booleans())
def test_turns_before_a_round_are_counted(size: tuple[int, int], seed: int, number: int, epochs: bool) -> None:
    n, w = size
    sampler = Sampler(names(n), w, seed, "epoch" if epochs else "uniform")
    assert sampler.before(number) == sum(len(sampler.sample(earlier)) for earlier in range(number))


@pytest.mark.parametrize("sampling", ["epoch", "uniform"])
def test_a_draw_is_a_function_of_seed_and_round(sampling: str) -> None:
    def make(seed: int) -> Sampler:
        return Sampler(names(30), 4, seed, "epoch" if sampling == "epoch" else "uniform")

    forth = make(7)
    torch.manual_seed(1)
    expected = [forth.sample(r) for r in range(20)]
    torch.manual_seed(2)
    back = make(7)
    assert [back.sample(r) for r in reversed(range(20))] == expected[::-1]
    assert [make(8).sample(r) for r in range(20)] != expected


def test_every_epoch_has_an_order_of_its_own() -> None:
    sampler = Sampler(names(12), 12, 3)
    assert len({tuple(sampler.sample(epoch)) for epoch in range(50)}) == 50


def test_no_place_of_an_epoch_favours_a_client() -> None:
    n, epochs = 6, 400
    sampler = Sampler(names(n), n, 11)
    orders = [sampler.sample(epoch) for epoch in range(epochs)]
    for place in range(n):
        counts = Counter(order[place] for order in orders)
        assert stats.chisquare([counts[name] for name in names(n)]).pvalue > 1e-6


def test_uniform_draws_favour_no_client_and_no_pair() -> None:
    n, w, rounds = 7, 3, 500
    sampler = Sampler(names(n), w, 5, "uniform")
    draws = [sampler.sample(r) for r in range(rounds)]
    # First places are independent from round to round, so the test is exact there.
    first = Counter(drawn[0] for drawn in draws)
    assert stats.chisquare([first[name] for name in names(n)]).pvalue > 1e-6
    for client in names(n):
        taken = sum(client in drawn for drawn in draws)
        assert stats.binomtest(taken, rounds, w / n).pvalue > 1e-6
    for pair in combinations(names(n), 2):
        together = sum(set(pair) <= set(drawn) for drawn in draws)
        assert stats.binomtest(together, rounds, w * (w - 1) / (n * (n - 1))).pvalue > 1e-6


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_clients_drop_out_at_the_rate_asked_for_and_independently(probability: float) -> None:
    dropout = Dropout(probability, seed=4)
    rounds, cohort = 60, 6
    lost = [[dropout.drops(r, p) for p in range(cohort)] for r in range(rounds)]
    assert stats.binomtest(sum(map(sum, lost)), rounds * cohort, probability).pvalue > 1e-6
    for place in range(cohort - 1):
        together = sum(row[place] and row[place + 1] for row in lost)
        assert stats.binomtest(together, rounds, probability**2).pvalue > 1e-6
    assert [[dropout.drops(r, p) for p in reversed(range(cohort))][::-1] for r in range(5)] == lost[:5]


def test_nobody_and_everybody_drops_out_at_the_ends() -> None:
    places = [(r, p) for r in range(20) for p in range(5)]
    assert not any(Dropout(0.0, 1).drops(r, p) for r, p in places)
    assert all(Dropout(1.0, 1).drops(r, p) for r, p in places)


def test_who_drops_out_is_not_who_is_drawn() -> None:
    """The same seed for both must not make the dropped ones a function of the order."""
    sampler, dropout = Sampler(names(4), 4, 9, "uniform"), Dropout(0.5, 9)
    lost = Counter(client for r in range(150) for p, client in enumerate(sampler.sample(r)) if dropout.drops(r, p))
    for name in names(4):
        assert stats.binomtest(lost[name], 150, 0.5).pvalue > 1e-6


def test_no_clients_and_too_many_are_refused() -> None:
    with pytest.raises(DataError, match="no clients"):
        Sampler((), 1, 0)
    with pytest.raises(DataError, match=r"4 clients a round.*from 3.*at most 3"):
        Sampler(names(3), 4, 0)
    with pytest.raises(DataError, match="0 clients a round"):
        Sampler(names(3), 0, 0)
