"""Epsilon against independent formulas, and a budget that is kept."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from igc.federation.protection import Accountant, Spending


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Balle and Wang, "Improving the Gaussian mechanism", ICML 2018, theorem 8; mu is sensitivity over noise."""
    left = norm.cdf(mu / 2 - epsilon / mu)
    return float(left - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


@pytest.mark.parametrize(("where", "sensitivity"), [("central", 1.0), ("local", 2.0)])
@pytest.mark.parametrize(("z", "times"), [(1.0, 1), (2.0, 7), (5.0, 100)])
def test_epsilon_of_public_cohorts_is_that_of_one_gaussian_mechanism(
    where: Literal["central", "local"], sensitivity: float, z: float, times: int
) -> None:
    mu = sensitivity * math.sqrt(times) / z
    expected = brentq(lambda e: gaussian_delta(e, mu) - 1e-5, 1e-6, 200.0)
    assert Accountant(where, z, 1e-5).epsilon(rounds=10**6, participations=times) == pytest.approx(expected, rel=1e-6)


def renyi_by_hand(q: float, z: float, order: int) -> float:
    """Wang et al. 2019, theorem 9 (general bound, REPLACE_ONE), for a Gaussian mechanism of multiplier z."""

    def own(a: float) -> float:
        return a / (2 * z * z)

    terms = [
        math.log(q**2 * math.comb(order, 2)) + min(math.log(4) + math.log(math.expm1(own(2))), own(2) + math.log(2))
    ]
    terms += [math.log(2 * q**j * math.comb(order, j)) + (j - 1) * own(j) for j in range(3, order + 1)]
    return math.log1p(sum(math.exp(t) for t in terms)) / (order - 1)


def test_secret_cohorts_are_amplified_and_no_better_than_the_papers_bound_allows() -> None:
    n, W, z, rounds, delta = 1000, 20, 4.0, 50, 1e-4
    amplified = Accountant("central", z, delta, W, n, secret=True)
    by_hand = min(rounds * renyi_by_hand(W / n, z / 2, a) + math.log(1 / delta) / (a - 1) for a in range(2, 64))
    everybody = Accountant("central", z / 2, delta).epsilon(rounds, rounds)
    assert 0 < amplified.epsilon(rounds, 1) <= by_hand * 1.01
    assert amplified.epsilon(rounds, 1) < everybody / 3
    assert amplified.epsilon(2 * rounds, 1) > amplified.epsilon(rounds, 1)


def test_local_noise_is_never_amplified() -> None:
    assert not Accountant("local", 1.0, 1e-5, 10, 1000, secret=True).amplified


def test_spending_is_that_of_the_client_that_took_part_most_often() -> None:
    accountant = Accountant("central", 2.0, 1e-5)
    spending = Spending(accountant)
    assert spending.epsilon == 0.0
    cohorts = [["a", "b"], ["c", "d"], ["a", "c"], ["a", "b"]]
    seen = []
    for round, cohort in enumerate(cohorts):
        assert spending.after(round, cohort) == pytest.approx(accountant.epsilon(0, [1, 1, 2, 3][round]))
        spending.note(round, cohort)
        seen.append(spending.epsilon)
    assert seen == [accountant.epsilon(0, k) for k in (1, 1, 2, 3)]


def test_a_budget_allows_rounds_up_to_itself_and_no_further() -> None:
    accountant = Accountant("central", 2.0, 1e-5)
    spending = Spending(accountant, budget=accountant.epsilon(0, 3) + 1e-9)
    for round in range(3):
        assert spending.allows(round, ["a"])
        spending.note(round, ["a"])
    assert not spending.allows(3, ["a"]) and spending.allows(3, ["b"])


def test_a_round_run_twice_counts_twice_unless_its_noise_is_the_same() -> None:
    accountant = Accountant("central", 2.0, 1e-5)
    secret, seeded = Spending(accountant), Spending(accountant, replayed=True)
    for spending in (secret, seeded):
        spending.note(0, ["a"])
        spending.note(0, ["a"])
    assert secret.epsilon == accountant.epsilon(0, 2)
    assert seeded.epsilon == accountant.epsilon(0, 1)
