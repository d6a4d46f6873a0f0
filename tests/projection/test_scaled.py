"""diag(w) A' against the dense product, on every kernel and over tensors of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection import (
    BlockedHadamard,
    InPlaceTheta,
    Scaled,
    Term,
    Theta,
    add_expanded_,
    kernels,
    project_tensors,
    to_dense,
)
from igc.projection.kernels import native
from igc.projection.tensors import expand_onto_
from support.strategies import make, vector

SIZES = (1000, 0, 3, 5000, 1, 1500, 7)
RAW = (1.0, 50.0, 20.0, 0.3, 9.0, 2.0, 4.0)
D = sum(SIZES)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BUILDS = native.names()
kernel_names = pytest.mark.parametrize("kernel", kernels.names())


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows(projection: Scaled) -> Tensor:
    """W of every row, float64 (D,)."""
    return torch.repeat_interleave(torch.tensor(projection.weights).double(), torch.tensor(projection.sizes))


def cut(flat: Tensor, sizes: tuple[int, ...] = SIZES) -> list[Tensor]:
    return [piece.clone() for piece in torch.split(flat, list(sizes))]


@kernel_names
@pytest.mark.parametrize("block", [16, 256, 1024])
def test_it_is_the_weights_times_the_matrix(kernel: str, block: int) -> None:
    projection = Scaled.of(BlockedHadamard(D=D, d=60, seed=4, block=block), SIZES, RAW)
    A = rows(projection)[:, None] * to_dense(projection.inner).double()
    g, x = vector(D, 0), vector(60, 1)
    with kernels.using(kernel):
        torch.testing.assert_close(projection.project(g).double(), A.T @ g.double(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(projection.expand(x).double(), A @ x.double(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(project_tensors(projection, cut(g), SIZES), projection.project(g), rtol=0, atol=0)
        moved, base = cut(g), cut(vector(D, 2))
        add_expanded_(projection, moved, x, alpha=-0.5)
        torch.testing.assert_close(torch.cat(moved).double(), g.double() - 0.5 * A @ x.double(), rtol=1e-5, atol=1e-5)
        expand_onto_(projection, moved, base, x)
        add_expanded_(projection, base, x)
    assert torch.equal(torch.cat(moved), torch.cat(base))


@pytest.mark.parametrize(
    "family", ["fastfood", "partition", "dense-gaussian", "count-sketch", "coordinates", "identity"]
)
def test_every_family_can_be_scaled(family: str) -> None:
    sizes, raw = (20, 0, 1, 50), (1.0, 3.0, 5.0, 2.0)
    inner = make(family, 71, 71 if family == "identity" else 12, 3)
    projection = Scaled.of(inner, sizes, raw)
    torch.testing.assert_close(
        to_dense(projection).double(), rows(projection)[:, None] * to_dense(inner).double(), rtol=1e-6, atol=1e-7
    )


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=10),
    log_n=st.integers(0, 11),
    seed=st.integers(0, 2**32),
)
def test_kernels_agree_with_the_reference_over_tensors_of_any_size_and_dtype(
    data: st.DataObject, sizes: list[int], log_n: int, seed: int
) -> None:
    total = sum(sizes)
    if total == 0:
        return
    inner = BlockedHadamard(D=total, d=data.draw(st.integers(1, min(total, 3000))), seed=seed, block=2**log_n)
    raw = data.draw(st.lists(st.floats(0.01, 10), min_size=len(sizes), max_size=len(sizes)))
    projection = Scaled.of(inner, sizes, raw)
    dtypes = [data.draw(st.sampled_from(DTYPES)) for _ in sizes]
    pieces = [p.to(t) for p, t in zip(cut(vector(total, seed), tuple(sizes)), dtypes, strict=True)]
    x = vector(projection.d, seed + 1)
    found = {}
    for name in (*BUILDS, "reference"):
        with kernels.using(name):
            moved = [p.clone() for p in pieces]
            add_expanded_(projection, moved, x)
            found[name] = project_tensors(projection, pieces, sizes), moved
    sketch, expected = found.pop("reference")
    long = math.sqrt(total / projection.d) * (rows(projection) * vector(total, seed).double()).norm()
    first = next(iter(found.values()), None)
    for projected, moved in found.values():
        assert (projected.double() - sketch.double()).norm() <= 3e-6 * long
        for a, b in zip(moved, expected, strict=True):
            eps = torch.finfo(a.dtype).eps
            scale = max(projection.weights) * float(x.abs().max()) * 4
            torch.testing.assert_close(a.float(), b.float(), rtol=3 * eps, atol=max(eps, 1e-6) * max(scale, 3))
        assert first is not None
        assert torch.equal(projected, first[0])
        assert all(torch.equal(a, b) for a, b in zip(moved, first[1], strict=True))


@pytest.mark.parametrize(("d", "block"), [(5, 0), (1000, 0), (20_000, 0), (3000, 1024)])
def test_builds_and_numbers_of_threads_give_the_same_bits(d: int, block: int) -> None:
    sizes = (300_000, 17, 100_000, 40_003, 100_000)
    total = sum(sizes)
    projection = Scaled.of(BlockedHadamard(D=total, d=d, seed=9, block=block), sizes, (1.0, 9.0, 0.2, 3.0, 3.0))
    g, x, y = cut(vector(total, 0), sizes), vector(d, 1), cut(vector(total, 2), sizes)
    results = []
    for build in BUILDS:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with kernels.using(build):
                moved = [piece.clone() for piece in y]
                add_expanded_(projection, moved, x, 0.7)
                results.append(torch.cat([project_tensors(projection, g, sizes), *moved]))
    assert all(torch.equal(result, results[0]) for result in results)


def test_weights_of_one_change_no_bit() -> None:
    inner = BlockedHadamard(D=D, d=60, seed=4, block=64)
    projection = Scaled.of(inner, SIZES, [3.0] * len(SIZES))
    assert projection.weights == (1.0,) * len(SIZES)
    g, x = vector(D, 0), vector(60, 1)
    assert torch.equal(projection.project(g), inner.project(g))
    assert torch.equal(projection.expand(x), inner.expand(x))


@pytest.mark.parametrize("place", [Theta, InPlaceTheta])
def test_theta_moves_by_the_scaled_matrix(place: type[Theta] | type[InPlaceTheta]) -> None:
    one = Scaled.of(BlockedHadamard(D=D, d=60, seed=4), SIZES, RAW)
    two = one.child(1)
    base, x, y = vector(D, 0), vector(60, 1), vector(60, 2)
    tensors = cut(base)
    theta = place(tensors)
    theta.move_([Term(one, x)])
    theta.move_([Term(two, y)], [Term(one, x)])
    A, B = to_dense(one).double(), to_dense(two).double()
    expected = base.double() + A @ x.double() + B @ y.double()
    torch.testing.assert_close(torch.cat(tensors).double(), expected, rtol=1e-4, atol=1e-4)


@given(
    sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
    floor=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_weights_have_a_mean_square_of_one_and_their_proportions(sizes: list[int], seed: int, floor: float) -> None:
    raw = vector(len(sizes), seed).exp().tolist()
    w = torch.tensor(Scaled.of(BlockedHadamard(D=sum(sizes), d=1, seed=0), sizes, raw, floor).weights).double()
    n = torch.tensor(sizes).double()
    assert float((n * w**2).sum() / n.sum()) == pytest.approx(1, abs=1e-5)
    if floor == 0:
        torch.testing.assert_close(w / w[0], torch.tensor(raw).double() / raw[0])
    assert float(w.min()) >= floor / (1 + floor) ** 0.5


def test_a_tensor_without_gradient_has_the_floor_and_all_without_have_one() -> None:
    inner = BlockedHadamard(D=100, d=1, seed=0)
    weights = Scaled.of(inner, (50, 50), (0.0, 1.0), floor=0.1).weights
    assert weights[0] / weights[1] == pytest.approx(0.1 / 2**0.5)
    assert Scaled.of(inner, (50, 50), (0.0, 0.0), floor=0.1).weights == (1.0, 1.0)
    assert Scaled.of(inner, (0, 100), (1.0, 0.0), floor=0.1).weights == (1.0, 1.0)


def test_huge_and_tiny_proportions_lose_nothing() -> None:
    inner = BlockedHadamard(D=100, d=1, seed=0)
    plain = Scaled.of(inner, (50, 50), (1.0, 2.0)).weights
    assert Scaled.of(inner, (50, 50), (1e300, 2e300)).weights == plain
    assert Scaled.of(inner, (50, 50), (1e-300, 2e-300)).weights == plain


def test_the_digest_changes_with_weights_sizes_and_matrix() -> None:
    inner = BlockedHadamard(D=100, d=4, seed=0)
    several = [
        inner,
        Scaled.of(inner, (50, 50), (1, 2)),
        Scaled.of(inner, (50, 50), (1, 2.001)),
        Scaled.of(inner, (49, 51), (1, 2)),
        Scaled.of(inner.child(1), (50, 50), (1, 2)),
    ]
    assert len({projection.digest for projection in several}) == 5


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ((50, 49), (1.0, 1.0), "do not fit the 100 rows"),
        ((50, 50), (1.0,), "1 weights for 2 tensors"),
        ((50, 50), (1.0, 2.0), "mean square of 2.5"),
        ((50, 50), (0.0, 2.0**0.5), "weight 0.0"),
        ((50, 50), (1.0, 1.00000001), "positive float32"),
        ((50, 50), (math.nan, 1.0), "weight nan"),
        ((150, -50), (1.0, 1.0), "do not fit"),
    ],
)
def test_weights_that_do_not_fit_are_refused(sizes: tuple[int, ...], weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ProjectionError, match=message):
        Scaled(BlockedHadamard(D=100, d=4, seed=0), sizes, weights)


def test_proportions_that_are_none_are_refused() -> None:
    inner = BlockedHadamard(D=100, d=4, seed=0)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ProjectionError, match="proportion"):
            Scaled.of(inner, (50, 50), (wrong, 1.0))
    scaled = Scaled.of(inner, (50, 50), (1.0, 2.0))
    with pytest.raises(ProjectionError, match="scaled again"):
        Scaled.of(scaled, (50, 50), (1.0, 2.0))
