"""K-subspace: who is given which subspace."""

from __future__ import annotations

from collections import Counter

import pytest

from igc.federation import Sampler
from igc.messages import Kind, decode
from igc.methods import KSubspace, Turn
from igc.optim import Sgd
from igc.projection import BlockedHadamard
from support.federation import Federation
from support.toy import toy_clients

SIZES = [(n, w, k) for n in range(1, 8) for w in range(1, n + 1) for k in range(1, 6)]


def given(n: int, w: int, k: int, sampling: str, rounds: int) -> list[list[int]]:
    """The subspaces of each round's clients, as downloads name them."""
    f = Federation(
        lambda p, o: KSubspace(p, o, k),
        d=2,
        clients=toy_clients(n, seed=1, examples=1),
        per_round=w,
        sampling="epoch" if sampling == "epoch" else "uniform",
    )
    f.run(rounds)
    found: list[list[int]] = [[] for _ in range(rounds)]
    for number, _, payload in f.engine.down:
        found[number].append(int(decode(payload, f.agreement, Kind.DOWNLOAD)["subspace"]))
    return found


@pytest.mark.parametrize("sampling", ["epoch", "uniform"])
@pytest.mark.parametrize(("n", "w", "k"), [(6, 4, 4), (5, 4, 2), (3, 2, 2), (7, 3, 3), (4, 2, 3), (5, 5, 4)])
def test_subspaces_are_given_in_turns_whatever_the_size_of_rounds(n: int, w: int, k: int, sampling: str) -> None:
    """Also where the last round of a pass is smaller."""
    turns = [subspace for round in given(n, w, k, sampling, 9) for subspace in round]
    assert turns == [turn % k for turn in range(len(turns))]


def test_all_subspaces_have_as_many_turns_and_each_client_all_subspaces() -> None:
    for n, w, k in SIZES:
        sampler = Sampler(tuple(f"c{i}" for i in range(n)), w, 3)
        method = KSubspace(BlockedHadamard(D=64, d=2, seed=0), Sgd(), k)
        state, turns = method.init(), Counter[int]()
        met: dict[str, set[int]] = {client: set() for client in sampler.clients}
        for number in range(16 * k * sampler.rounds_per_epoch):
            for place, client in enumerate(sampler.sample(number)):
                turn = Turn(client, number, place, sampler.before(number))
                subspace = int(method.download(state, turn)["subspace"])
                turns[subspace] += 1
                met[client].add(subspace)
        assert set(turns.values()) == {16 * n}, (n, w, k)
        assert n == 1 or all(len(subspaces) == k for subspaces in met.values()), (n, w, k)


@pytest.mark.parametrize(("n", "w", "k"), [(6, 3, 4), (8, 2, 3), (4, 4, 3)])
def test_where_rounds_are_of_one_size_turns_are_as_they_ever_were(n: int, w: int, k: int) -> None:
    rounds = given(n, w, k, "epoch", 7)
    assert rounds == [[(number * w + place) % k for place in range(w)] for number in range(7)]
