"""Deal examples out to clients: IID, skewed by label, a few labels each, or as the source has them.

Every function returns one sorted array of example indices a client. The arrays are disjoint, together they are all
examples, and none is empty. Randomness comes from the generator given, and from nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from igc.errors import DataError

Indices = NDArray[np.int64]


def iid(examples: int, clients: int, rng: np.random.Generator) -> list[Indices]:
    """Shuffle and cut into ``clients`` parts whose sizes differ by at most one.

    Raises:
        DataError: there are no clients, or more clients than examples.
    """
    _check(examples, clients)
    return [np.sort(part) for part in np.array_split(rng.permutation(examples), clients)]


def dirichlet(labels: Sequence[int], clients: int, alpha: float, rng: np.random.Generator) -> list[Indices]:
    """Skew labels over clients of equal size: each draws its mixture of labels from Dirichlet(``alpha`` x prior).

    Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual classification",
    2019, section 2: prior is the distribution of labels in the whole, large ``alpha`` tends to IID, small ``alpha`` to
    one label a client. Sizes are equal up to one, so that every client has examples. Once a label has run out, the
    client's mixture is drawn anew over the labels that are left, which has the same distribution as renormalising it.

    Raises:
        DataError: ``alpha`` is not positive, there are no clients, or more clients than examples.
    """
    _check(len(labels), clients)
    if not (alpha > 0 and np.isfinite(alpha)):
        raise DataError(f"alpha must be positive and finite, not {alpha}")
    pools = _shuffled_by_label(labels, rng)
    left = np.array([len(pool) for pool in pools])
    prior = left / left.sum()
    sizes = [len(part) for part in np.array_split(np.arange(len(labels)), clients)]
    parts: list[Indices] = []
    for size in rng.permutation(sizes):
        taken = np.zeros_like(left)
        while (missing := size - taken.sum()) > 0:
            wanted = rng.multinomial(missing, _mixture(alpha * prior, left > taken, rng))
            taken += np.minimum(wanted, left - taken)
        parts.append(np.sort(np.concatenate([pool[n - k : n] for pool, n, k in zip(pools, left, taken, strict=True)])))
        left = left - taken
    return parts


def by_labels(labels: Sequence[int], clients: int, labels_per_client: int, rng: np.random.Generator) -> list[Indices]:
    """Give each client exactly ``labels_per_client`` labels and an even share of each.

    The pathological split of McMahan et al., "Communication-efficient learning of deep networks from decentralized
    data", 2017, section 3, without its accidents: labels are dealt in rotation, so that no client gets one twice.

    Raises:
        DataError: there are no clients, more clients than examples, more labels per client than labels, too few clients
            to hold every label, or a label with fewer examples than clients that hold it.
    """
    _check(len(labels), clients)
    pools = _shuffled_by_label(labels, rng)
    if not 1 <= labels_per_client <= len(pools):
        raise DataError(f"labels_per_client is {labels_per_client}, but the data have {len(pools)} labels")
    if clients * labels_per_client < len(pools):
        raise DataError(f"{clients} clients x {labels_per_client} labels cannot hold all {len(pools)} labels")
    # Consecutive slots of a rotation over the labels differ, as long as there are no more of them than labels.
    slots = rng.permutation(len(pools))[np.arange(clients * labels_per_client) % len(pools)]
    owners = np.repeat(rng.permutation(clients), labels_per_client)
    shares: list[list[Indices]] = [[] for _ in range(clients)]
    for label, pool in enumerate(pools):
        holders = owners[slots == label]
        if len(pool) < len(holders):
            raise DataError(
                f"label {label} has {len(pool)} examples, too few for the {len(holders)} clients that hold it"
            )
        for holder, share in zip(holders, np.array_split(pool, len(holders)), strict=True):
            shares[holder].append(share)
    return [np.sort(np.concatenate(share)) for share in shares]


def natural(owners: Sequence[str]) -> dict[str, Indices]:
    """Client -> indices of its examples; clients in order of first appearance."""
    found: dict[str, list[int]] = {}
    for index, owner in enumerate(owners):
        found.setdefault(owner, []).append(index)
    return {owner: np.array(indices, dtype=np.int64) for owner, indices in found.items()}


def _check(examples: int, clients: int) -> None:
    if clients < 1:
        raise DataError(f"there must be at least one client, not {clients}")
    if clients > examples:
        raise DataError(f"{clients} clients cannot share {examples} examples; each needs at least one")


def _shuffled_by_label(labels: Sequence[int], rng: np.random.Generator) -> list[Indices]:
    """One shuffled array of indices for each distinct label, labels ascending."""
    values = np.asarray(labels)
    return [rng.permutation(np.flatnonzero(values == label)) for label in np.unique(values)]


def _mixture(
    concentration: NDArray[np.float64], allowed: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A Dirichlet draw over the allowed labels, zero elsewhere."""
    mixture = np.zeros_like(concentration)
    drawn = rng.dirichlet(np.maximum(concentration[allowed], np.finfo(float).tiny))
    if not np.isfinite(drawn).all() or drawn.sum() == 0:  # so small a concentration that all of it underflowed
        share = concentration[allowed] / concentration[allowed].sum()
        drawn = np.eye(len(drawn))[rng.choice(len(drawn), p=share)]
    mixture[allowed] = drawn
    return mixture
