"""What every registered family of projections must satisfy; a new one is tested by being registered."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igc.errors import ProjectionError
from igc.projection import FAMILIES, Scaled, check_adjoint, projection_from_spec, to_dense
from support.strategies import make, projections, vector

families = pytest.mark.parametrize("family", FAMILIES)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def small(family: str, D: int = 500, d: int = 20, seed: int = 1):  # type: ignore[no-untyped-def]
    return make(family, D, D if family == "identity" else d, seed)


@families
@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32), dtype=st.sampled_from(DTYPES))
def test_expand_and_project_are_adjoint(family: str, data: st.DataObject, seed: int, dtype: torch.dtype) -> None:
    projection = data.draw(projections(family))
    check_adjoint(projection, vector(projection.d, seed), vector(projection.D, seed + 1, dtype))


@families
@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_any_slice_is_a_slice_of_the_dense_matrix(family: str, data: st.DataObject, seed: int) -> None:
    projection = data.draw(projections(family, max_rows=300, max_dim=40))
    start = data.draw(st.integers(0, projection.D))
    stop = data.draw(st.integers(start, projection.D))
    A = to_dense(projection).double()
    x, g = vector(projection.d, seed), vector(stop - start, seed + 1)
    torch.testing.assert_close(
        projection.expand(x, start, stop).double(), A[start:stop] @ x.double(), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        projection.project(g, start).double(), A[start:stop].T @ g.double(), atol=1e-4, rtol=1e-4
    )


@families
@settings(max_examples=15, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_the_gram_is_the_dense_ones(family: str, data: st.DataObject, seed: int) -> None:
    projection = data.draw(projections(family, max_rows=300, max_dim=40))
    A, x = to_dense(projection).double(), vector(projection.d, seed)
    found = projection.gram(x).double()
    assert float((found - A.T @ (A @ x.double())).norm()) <= 1e-5 * float((A.T @ A).norm() * x.double().norm())


@families
@settings(max_examples=20, deadline=None)
@given(data=st.data(), cuts=st.lists(st.integers(0, 3000), max_size=6), seed=st.integers(0, 2**32))
def test_slices_in_any_order_add_up_to_the_whole(family: str, data: st.DataObject, cuts: list[int], seed: int) -> None:
    projection = data.draw(projections(family))
    g = vector(projection.D, seed)
    edges = sorted({0, projection.D, *(cut for cut in cuts if cut < projection.D)})
    spans = data.draw(st.permutations(list(pairwise(edges))))
    total = torch.zeros(projection.d)
    for start, stop in spans:
        projection.project_(g[start:stop], start, total)
    torch.testing.assert_close(total, projection.project(g), atol=1e-4, rtol=1e-4)


@families
def test_the_mean_of_a_at_is_the_identity_with_weights_their_squares(family: str) -> None:
    D, d, draws = 12, 4, 400
    total, w = torch.zeros(D, D), torch.ones(D)
    for seed in range(draws):
        projection = small(family, D, d, seed)
        A = to_dense(projection)
        if isinstance(projection, Scaled):
            w = torch.repeat_interleave(torch.tensor(projection.weights), torch.tensor(projection.sizes))
        total += A @ A.T / torch.outer(w, w)
    # Entries of A A^T have variance of about 1/d; five standard errors, over 144 entries.
    assert (total / draws - torch.eye(D)).abs().max() < 5 * (2 / d / draws) ** 0.5
    assert w.square().mean() == pytest.approx(1, abs=1e-6)


@families
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_spec_rebuilds_the_projection_through_json(family: str, data: st.DataObject) -> None:
    projection = data.draw(projections(family))
    rebuilt = projection_from_spec(json.loads(json.dumps(projection.spec())))
    assert rebuilt == projection
    assert rebuilt.digest == projection.digest


@families
def test_the_digest_changes_with_every_field(family: str) -> None:
    base = small(family)
    others = [small(family, D=501), small(family, seed=2)] + ([] if family == "identity" else [small(family, d=21)])
    assert len({p.digest for p in (base, *others)}) == 1 + len(others)


@families
def test_no_global_random_state_is_read_or_changed(family: str) -> None:
    projection = small(family)
    g = vector(projection.D, 0)
    torch.manual_seed(1)
    first = projection.project(g)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(projection.project(g), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@families
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_precision_accumulates_in_float32(family: str, dtype: torch.dtype) -> None:
    projection = small(family, D=5000)
    g = vector(projection.D, 3, dtype)
    torch.testing.assert_close(projection.project(g), projection.project(g.float()), rtol=0, atol=0)
    x, y = vector(projection.d, 4), vector(projection.D, 5, dtype)
    once = (y.float() + projection.expand(x)).to(dtype)
    assert torch.equal(projection.add_expanded_(y, x), once)


@families
def test_where_a_vector_lies_in_memory_changes_no_bit(family: str) -> None:
    projection = small(family, D=601, d=100)
    x, g = vector(projection.d, 0), vector(projection.D, 1)
    y, s = projection.expand(x), projection.project(g)
    for offset in range(1, 16):  # floats; an aligned vector has 16 to a cache line
        low, high = torch.empty(projection.d + offset)[offset:], torch.empty(projection.D + offset)[offset:]
        assert torch.equal(projection.expand(low.copy_(x)), y)
        assert torch.equal(projection.project(high.copy_(g)), s)


@families
def test_nan_is_never_hidden(family: str) -> None:
    projection = small(family)
    g = vector(projection.D, 0)
    seen = int(projection.expand(vector(projection.d, 1)).abs().argmax())  # a row that is not zero
    g[seen] = torch.nan
    assert projection.project(g).isnan().any()


@families
def test_an_input_is_never_changed(family: str) -> None:
    projection = small(family)
    g, x = vector(projection.D, 0), vector(projection.d, 1)
    kept_g, kept_x = g.clone(), x.clone()
    projection.project(g)
    projection.expand(x)
    assert torch.equal(g, kept_g)
    assert torch.equal(x, kept_x)


@families
def test_children_are_other_matrices_and_the_path_of_zeros_is_itself(family: str) -> None:
    projection = small(family)
    assert projection.child(0) == projection.child(0, 0) == projection
    children = [projection.child(*path) for path in [(1,), (2,), (0, 1), (1, 1), (0, 2)]]
    assert len({child.seed for child in (projection, *children)}) == 6


@families
@pytest.mark.parametrize(
    ("change", "message"),
    [({"D": 0}, "rows"), ({"seed": -1}, "seed"), ({"seed": 2**64}, "seed"), ({"d": 0}, "intrinsic dimension")],
)
def test_bad_sizes_are_refused(family: str, change: dict[str, int], message: str) -> None:
    with pytest.raises(ProjectionError, match=message):
        make(family, **{"D": 10, "d": 10, "seed": 0, **change})


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"identity"}))
def test_a_d_larger_than_the_model_is_refused_with_both_numbers(family: str) -> None:
    with pytest.raises(ProjectionError, match=r" = 11 exceeds D = 10"):
        make(family, D=10, d=11, seed=0)


@families
def test_tensors_that_do_not_fit_are_refused(family: str) -> None:
    p = small(family)
    with pytest.raises(ProjectionError, match="a vector is needed"):
        p.project(torch.zeros(2, 2))
    with pytest.raises(ProjectionError, match="float64"):
        p.project(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ProjectionError, match="rows"):
        p.project(torch.zeros(p.D + 1))
    with pytest.raises(ProjectionError, match="rows"):
        p.project(torch.zeros(1), start=p.D)
    with pytest.raises(ProjectionError, match="are needed"):
        p.expand(torch.zeros(p.d + 1))
    with pytest.raises(ProjectionError, match="rows"):
        p.expand(torch.zeros(p.d), 0, p.D + 1)


@families
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_matrix(family: str) -> None:
    projection = small(family, D=10_000)
    x, g = vector(projection.d, 0), vector(projection.D, 1)
    torch.testing.assert_close(projection.project(g.cuda()).cpu(), projection.project(g), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(projection.expand(x.cuda()).cpu(), projection.expand(x), atol=1e-4, rtol=1e-4)
