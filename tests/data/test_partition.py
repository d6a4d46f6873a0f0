from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igc.data import partition
from igc.errors import DataError

SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def labels_and_clients(draw: st.DrawFn) -> tuple[list[int], int]:
    labels = draw(st.lists(st.integers(0, 4), min_size=1, max_size=60))
    return labels, draw(st.integers(1, len(labels)))


def assert_partition(parts: list[partition.Indices], examples: int) -> None:
    """Disjoint, complete, none empty, each ascending."""
    assert sorted(int(i) for part in parts for i in part) == list(range(examples))
    assert all(len(part) > 0 for part in parts)
    assert all(a < b for part in parts for a, b in pairwise(part.tolist()))


def mixtures(parts: list[partition.Indices], labels: list[int]) -> np.ndarray:
    """Row by client, column by label: which fraction of the client's examples has the label."""
    values = np.asarray(labels)
    return np.array([[np.mean(values[part] == label) for label in np.unique(values)] for part in parts])


@given(st.integers(1, 100), st.data(), SEEDS)
def test_iid_is_a_partition_of_even_sizes(examples: int, data: st.DataObject, seed: int) -> None:
    clients = data.draw(st.integers(1, examples))
    parts = partition.iid(examples, clients, np.random.default_rng(seed))
    assert_partition(parts, examples)
    assert len(parts) == clients
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(labels_and_clients(), st.floats(1e-300, 1e6), SEEDS)
def test_dirichlet_is_a_partition_of_even_sizes(case: tuple[list[int], int], alpha: float, seed: int) -> None:
    labels, clients = case
    parts = partition.dirichlet(labels, clients, alpha, np.random.default_rng(seed))
    assert_partition(parts, len(labels))
    assert len(parts) == clients
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(labels_and_clients(), SEEDS)
def test_a_tiny_alpha_gives_one_label_a_client(case: tuple[list[int], int], seed: int) -> None:
    # A client takes one label until that has run out, so each of the labels but the last can split one client at most.
    labels, clients = case
    parts = partition.dirichlet(labels, clients, 1e-200, np.random.default_rng(seed))
    held = sum(len({labels[i] for i in part}) for part in parts)
    assert held <= clients + len(set(labels)) - 1


def test_a_huge_alpha_gives_nearly_the_prior() -> None:
    labels = [0] * 3000 + [1] * 1000
    parts = partition.dirichlet(labels, 20, 1e6, np.random.default_rng(1))
    # 200 draws a client: a standard deviation of 0.03
    assert np.abs(mixtures(parts, labels) - [0.75, 0.25]).max() < 0.15


def test_skew_falls_as_alpha_grows() -> None:
    labels = [i % 4 for i in range(4000)]
    spread = [
        np.std(mixtures(partition.dirichlet(labels, 20, alpha, np.random.default_rng(2)), labels))
        for alpha in (0.01, 1, 100, 10_000)
    ]
    assert spread == sorted(spread, reverse=True)
    # The standard deviation of one coordinate of Dirichlet(alpha/4, ...), here without its finite-sample part.
    assert spread[1] == pytest.approx(np.sqrt(0.25 * 0.75 / 2), rel=0.3)


@given(st.integers(1, 6), st.data(), SEEDS)
def test_by_labels_gives_each_client_its_number_of_labels(n_labels: int, data: st.DataObject, seed: int) -> None:
    per_client = data.draw(st.integers(1, n_labels))
    clients = data.draw(st.integers(-(-n_labels // per_client), 12))
    labels = [label for label in range(n_labels) for _ in range(data.draw(st.integers(clients, 20)))]
    parts = partition.by_labels(labels, clients, per_client, np.random.default_rng(seed))
    assert_partition(parts, len(labels))
    assert [len({labels[i] for i in part}) for part in parts] == [per_client] * clients


@given(st.lists(st.text(max_size=3), max_size=40))
def test_natural_keeps_owners_and_order(owners: list[str]) -> None:
    parts = partition.natural(owners)
    assert_partition(list(parts.values()), len(owners))
    assert all(owners[i] == client for client, part in parts.items() for i in part)
    assert list(parts) == list(dict.fromkeys(owners))


@pytest.mark.parametrize("how", ["iid", "dirichlet", "by_labels"])
def test_the_seed_decides_and_nothing_global_is_drawn(how: str) -> None:
    labels = [i % 5 for i in range(100)]

    def deal(seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        parts = {
            "iid": lambda: partition.iid(len(labels), 10, rng),
            "dirichlet": lambda: partition.dirichlet(labels, 10, 0.5, rng),
            "by_labels": lambda: partition.by_labels(labels, 10, 2, rng),
        }[how]()
        return [part.tolist() for part in parts]

    before = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert deal(3) == deal(3)
    assert deal(3) != deal(4)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]  # noqa: NPY002


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partition.iid(3, 4, RNG), "4 clients cannot share 3 examples"),
        (lambda: partition.iid(3, 0, RNG), "at least one client, not 0"),
        (lambda: partition.dirichlet([0, 1], 3, 1.0, RNG), "3 clients cannot share 2 examples"),
        (lambda: partition.dirichlet([0, 1], 1, 0.0, RNG), "alpha must be positive and finite, not 0.0"),
        (lambda: partition.dirichlet([0, 1], 1, -1.0, RNG), "alpha must be positive"),
        (lambda: partition.dirichlet([0, 1], 1, float("nan"), RNG), "alpha must be positive"),
        (lambda: partition.by_labels([0, 1], 1, 3, RNG), "labels_per_client is 3, but the data have 2 labels"),
        (lambda: partition.by_labels([0, 1], 1, 0, RNG), "labels_per_client is 0"),
        (lambda: partition.by_labels([0, 1, 2], 2, 1, RNG), "2 clients x 1 labels cannot hold all 3 labels"),
        (lambda: partition.by_labels([0, 0, 0, 1], 4, 1, RNG), "label 1 has 1 examples, too few for the 2 clients"),
    ],
)
def test_impossible_requests_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(DataError, match=message):
        call()
