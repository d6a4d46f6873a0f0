"""The weighted mean against NumPy in float64."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.federation.aggregate import WeightedMean, weighted_mean

Upload = tuple[str, int, Tensor, float, float]


@st.composite
def rounds(draw: st.DrawFn, *, whole: bool = False) -> list[Upload]:
    """Uploads of one round; with ``whole``, small integers, on which float64 makes no error."""
    d = draw(st.integers(1, 6))
    uploads: list[Upload] = []
    for i in range(draw(st.integers(1, 8))):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
        if whole:
            vector = torch.randint(-100, 100, (d,), generator=generator).float()
            loss = float(draw(st.integers(0, 100)))
        else:
            vector = torch.randn(d, generator=generator) * 10.0 ** draw(st.integers(-6, 6))
            loss = draw(st.floats(-1e6, 1e6))
        uploads.append((f"c{i}", draw(st.integers(0, 3)), vector, float(draw(st.integers(1, 1000))), loss))
    return uploads


@settings(max_examples=80)
@given(uploads=rounds())
def test_it_is_the_weighted_mean(uploads: list[Upload]) -> None:
    uploads = [(client, 0, vector, weight, loss) for client, _, vector, weight, loss in uploads]
    means = weighted_mean(uploads)
    assert means is not None
    weights = [weight for _, _, _, weight, _ in uploads]
    exact = np.average(np.stack([v.double().numpy() for _, _, v, _, _ in uploads]), axis=0, weights=weights)
    found = means.groups[0]
    assert found.dtype == torch.float32
    scale = max(float(v.abs().max()) for _, _, v, _, _ in uploads)
    np.testing.assert_allclose(found.numpy(), exact, rtol=2**-23, atol=1e-14 * scale)
    losses = [loss for *_, loss in uploads]
    np.testing.assert_allclose(means.loss, np.average(losses, weights=weights), rtol=1e-9, atol=1e-9)
    assert means.clients == tuple(client for client, *_ in uploads)


@settings(max_examples=60)
@given(uploads=rounds())
def test_each_groups_sum_is_over_the_weight_of_the_whole_round(uploads: list[Upload]) -> None:
    means = weighted_mean(uploads)
    assert means is not None
    assert list(means.groups) == sorted({group for _, group, *_ in uploads})
    for group, found in means.groups.items():
        # What NumPy makes of the round, with zeros for those of other groups.
        rows = [v.double().numpy() * (k == group) for _, k, v, _, _ in uploads]
        exact = np.average(np.stack(rows), axis=0, weights=[w for _, _, _, w, _ in uploads])
        scale = max(float(v.abs().max()) for _, _, v, _, _ in uploads)
        np.testing.assert_allclose(found.numpy(), exact, rtol=2**-23, atol=1e-14 * scale)


@settings(max_examples=60)
@given(data=st.data(), uploads=rounds(whole=True))
def test_the_order_of_uploads_does_not_matter(data: st.DataObject, uploads: list[Upload]) -> None:
    straight = weighted_mean(uploads)
    shuffled = weighted_mean(data.draw(st.permutations(uploads)))
    assert straight is not None
    assert shuffled is not None
    assert straight.loss == shuffled.loss
    assert straight.groups.keys() == shuffled.groups.keys()
    assert all(torch.equal(straight.groups[k], shuffled.groups[k]) for k in straight.groups)


def test_many_small_uploads_are_not_lost_beside_a_large_one() -> None:
    # In float32 a sum that has reached 2^30 no longer notices 1.
    large: Upload = ("big", 0, torch.tensor([2.0**30]), 1.0, 0.0)
    away: Upload = ("gib", 0, torch.tensor([-(2.0**30)]), 1.0, 0.0)
    small: list[Upload] = [(f"c{i}", 0, torch.tensor([1.0]), 1.0, 0.0) for i in range(100)]
    means = weighted_mean([large, *small, away])
    assert means is not None
    assert torch.equal(means.groups[0], torch.tensor([100 / 102]))


def test_a_mean_of_one_is_the_upload_itself() -> None:
    vector = torch.randn(50, generator=torch.Generator().manual_seed(0))
    means = weighted_mean([("c", 2, vector, 977.0, 0.25)])
    assert means is not None
    assert torch.equal(means.groups[2], vector)
    assert means.loss == 0.25


def test_no_upload_has_no_mean() -> None:
    assert weighted_mean([]) is None


def test_uploads_are_neither_changed_nor_kept() -> None:
    held: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def arriving() -> Iterator[Upload]:
        for i in range(20):
            vector = torch.full((3,), float(i))
            held.append(weakref.ref(vector))
            yield f"c{i}", i % 2, vector, 1.0, 0.0
            assert torch.equal(vector, torch.full((3,), float(i)))
            del vector
            alive.append(sum(ref() is not None for ref in held))

    weighted_mean(arriving())
    assert max(alive) <= 2  # the one at hand, and the one that the loop still names


def test_means_may_be_asked_for_along_the_way() -> None:
    mean = WeightedMean()
    assert mean.means() is None
    mean.add("a", 0, torch.tensor([1.0]), 1.0, 1.0)
    first = mean.means()
    mean.add("b", 0, torch.tensor([4.0]), 2.0, 4.0)
    second = mean.means()
    assert first is not None
    assert second is not None
    assert (first.groups[0].item(), first.loss, first.clients) == (1.0, 1.0, ("a",))
    assert (second.groups[0].item(), second.loss, second.clients) == (3.0, 3.0, ("a", "b"))
