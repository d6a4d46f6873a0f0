"""From a recipe's sections ``aggregation``, ``privacy`` and ``secure`` to what is done around the mean."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import secrets
from pathlib import Path
from typing import Any, Final

from igc.errors import RunError
from igc.experiments import metrics
from igc.experiments.metrics import JsonLines
from igc.experiments.recipe import Recipe
from igc.experiments.settings import K_SUBSPACE
from igc.federation.protection import (
    Accountant,
    GaussianNoise,
    Krum,
    Median,
    NormBound,
    Protection,
    Rule,
    Spending,
    TrimmedMean,
)
from igc.federation.secure.settings import SecureSettings
from igc.projection.philox import child_seed

JOURNAL: Final = "privacy.jsonl"
_NOISE, _COHORTS = 1, 2  # what a seed derived from the simulation's is for


def build_protection(recipe: Recipe) -> Protection:
    """What clients and server do around the mean.

    Raises:
        RunError: a package is missing.
    """
    a, p = recipe.aggregation, recipe.privacy
    bound = None if a.norm_bound is None else NormBound(a.norm_bound, a.over_bound, a.max_weight)
    noise = None
    if p is not None and a.norm_bound is not None:
        noise = GaussianNoise(p.noise_multiplier * a.norm_bound, None if p.seed is None else child_seed(p.seed, _NOISE))
    where = "central" if p is None else p.where
    return Protection(bound, _rule(recipe), noise, where, _answers(recipe), _secure(recipe))


def build_spending(recipe: Recipe, clients: int) -> Spending | None:
    """The account of a run with differential privacy; None: it has none.

    Args:
        recipe: the recipe.
        clients: how many there are.

    Raises:
        RunError: a package is missing, or the budget does not cover one round.
    """
    p = recipe.privacy
    if p is None:
        return None
    cohort = recipe.federation.clients_per_round
    accountant = Accountant(p.where, p.noise_multiplier, p.delta, cohort, clients, p.secret_cohorts)
    if p.epsilon is not None and (least := accountant.epsilon(1, 1)) > p.epsilon:
        raise RunError(
            f"privacy.epsilon = {p.epsilon:g} does not cover a single round, which takes {least:.4g} at"
            f" privacy.noise_multiplier = {p.noise_multiplier:g} and delta = {p.delta:g}; raise one of the first two"
        )
    return Spending(accountant, p.epsilon, replayed=p.seed is not None)


def cohort_seed(recipe: Recipe, shared: int) -> int:
    """The seed of cohorts: the recipe's own, which everybody knows, unless they are to be secret."""
    p = recipe.privacy
    if p is None or not p.secret_cohorts:
        return shared
    return secrets.randbits(63) if p.seed is None else child_seed(p.seed, _COHORTS)


def digest_with(method: bytes, protection: Protection) -> bytes:
    """Four bytes for the wire that name the method and what clients do to its uploads."""
    if not protection.settings:
        return method
    listing = json.dumps(protection.settings, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(method + listing.encode(), digest_size=4, person=b"igc-protection").digest()


class Journal:
    """RUN/privacy.jsonl: a line for each round that began, on the disk before the round begins.

    Unlike other logs it is never cut back to a checkpoint: a round that was lost in a kill has told what it told.

    Args:
        folder: the run's.
        spending: is told of the rounds that the file has.

    Raises:
        RunError: they were drawn among more or fewer clients than there are now, where epsilon depends on that.
    """

    def __init__(self, folder: Path, spending: Spending) -> None:
        self._spending = spending
        self._population = spending.accountant.population
        path = folder / JOURNAL
        if path.exists():
            for line in metrics.read(path):
                self._check(path, line)
                spending.note(line["round"] - 1, line["clients"])
        self._lines = JsonLines(path)

    def begin(self, round: int, clients: list[str]) -> None:
        """A round (from 0) is about to begin."""
        self._lines.append({"round": round + 1, "clients": clients, "population": self._population})
        self._lines.sync()
        self._spending.note(round, clients)

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _check(self, path: Path, line: dict[str, Any]) -> None:
        """Epsilon is one formula over all rounds: it holds where all were drawn among as many clients."""
        then = line.get("population", self._population)
        if self._spending.accountant.amplified and then != self._population:
            raise RunError(
                f"{path}: round {line['round']} was drawn among {then} clients, and there are {self._population} now, so"
                " that epsilon would be wrong; put the clients back, or train in a new folder"
            )


def _answers(recipe: Recipe) -> int | None:
    """How many answers the budget leaves a client that adds its own noise."""
    p = recipe.privacy
    if p is None or p.where == "central" or p.epsilon is None:
        return None
    return Accountant(p.where, p.noise_multiplier, p.delta).most(p.epsilon)


def _rule(recipe: Recipe) -> Rule | None:
    a = recipe.aggregation
    if a.rule == "mean":
        return None
    if a.rule == "median":
        return Median()
    return TrimmedMean(a.byzantine) if a.rule == "trimmed-mean" else Krum(a.byzantine, a.keep)


def _secure(recipe: Recipe) -> SecureSettings | None:
    s = recipe.secure
    if s is None:
        return None
    missing = [name for name in ("cryptography", "Crypto") if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(
            "[secure] needs the packages cryptography and pycryptodome:"
            " pip install 'intrinsic-gradient-compression[secure]'"
        )
    groups = recipe.method.subspaces if recipe.method.name in K_SUBSPACE else 1
    cohort = recipe.federation.clients_per_round
    return SecureSettings(cohort, s.threshold, s.shares, s.bits, s.max_weight or 1, groups)
