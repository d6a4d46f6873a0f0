"""Learned directions, and columns side by side, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection import (
    BlockedHadamard,
    Columns,
    InPlaceTheta,
    Learned,
    Partition,
    Projection,
    Scaled,
    Term,
    Theta,
    add_expanded_,
    check_adjoint,
    kernels,
    project_as_born,
    project_tensors,
    to_dense,
)
from igc.projection.learned import leading_directions
from igc.projection.tensors import expand_onto_
from support.strategies import vector

D, WIDE, K = 2338, 96, 5
SIZES = (700, 40, 0, 1300, 5, 260, 33)
RAW = (1.0, 2.0, 1.0, 0.5, 4.0, 3.0, 1.0)


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    """Uniform over all such matrices, to rounding."""
    drawn = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    found: Tensor = q * r.diagonal().sign()
    return found.float()


U = orthonormal(WIDE, K, 0)
BASES: dict[str, Projection] = {
    "blocked-hadamard": BlockedHadamard(D=D, d=WIDE, seed=1),
    "partition": Partition(D=D, d=WIDE, seed=1),
    "scaled": Scaled.of(BlockedHadamard(D=D, d=WIDE, seed=1, block=64), SIZES, RAW),
}
RESTS: dict[str, Projection] = {
    "blocked-hadamard": BlockedHadamard(D=D, d=20, seed=2, block=16),
    "partition": BlockedHadamard(D=D, d=20, seed=2),
    "scaled": Scaled.of(BlockedHadamard(D=D, d=20, seed=2), SIZES, RAW),
}

DENSE = {name: to_dense(base).double() for name, base in BASES.items()}


def mixed(base: str) -> Columns:
    return Columns((Learned(BASES[base], U), RESTS[base]))


def dense(base: str) -> Tensor:
    """[A_0 U | A'], columns of one length, float64."""
    left, right = DENSE[base] @ U.double(), to_dense(RESTS[base]).double()
    return torch.cat([left * (WIDE / 25) ** 0.5, right * (20 / 25) ** 0.5], dim=1)


def cut(flat: Tensor) -> list[Tensor]:
    return [piece.clone() for piece in torch.split(flat, list(SIZES))]


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize("base", BASES)
def test_it_is_the_dense_matrix_of_its_parts(kernel: str, base: str) -> None:
    A, projection = dense(base), mixed(base)
    g, x, y = vector(D, 0), vector(25, 1), vector(D, 2)
    parameters = [torch.nn.Parameter(piece) for piece in cut(y)]
    with kernels.using(kernel):
        with project_as_born(projection, parameters) as born:
            torch.autograd.backward([torch.dot(p, q) for p, q in zip(parameters, cut(g), strict=True)])
        for sketch in (born, projection.project(g), project_tensors(projection, cut(g), SIZES)):
            torch.testing.assert_close(sketch.double(), A.T @ g.double(), rtol=1e-5, atol=5e-4)
        moved, onto, added = cut(y), cut(g), cut(y)
        add_expanded_(projection, moved, x, -0.5)
        expand_onto_(projection, onto, cut(y), x)
        add_expanded_(projection, added, x)
        check_adjoint(projection, x, g)
    torch.testing.assert_close(torch.cat(moved).double(), y.double() - 0.5 * A @ x.double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.cat(onto), torch.cat(added))


@pytest.mark.parametrize("base", BASES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.integers(0, D), count=st.integers(0, D))
def test_learned_directions_of_any_slice_are_those_of_the_base(base: str, seed: int, start: int, count: int) -> None:
    projection, stop = Learned(BASES[base], orthonormal(WIDE, K, seed)), min(start + count, D)
    g, x = vector(stop - start, seed + 1), vector(K, seed + 2)
    A = DENSE[base] @ projection.directions.double() * (WIDE / K) ** 0.5
    torch.testing.assert_close(
        projection.expand(x, start, stop).double(), A[start:stop] @ x.double(), atol=1e-4, rtol=0
    )
    sketch = projection.project(g, start).double()
    torch.testing.assert_close(sketch, A[start:stop].T @ g.double(), atol=3e-3, rtol=1e-4)
    check_adjoint(projection, x, vector(D, seed + 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    projection = mixed("blocked-hadamard")
    x, y = vector(25, 0), vector(D, 1, dtype)
    moved = [piece.clone() for piece in torch.split(y, list(SIZES))]
    add_expanded_(projection, moved, x)
    assert torch.equal(torch.cat(moved), (y.float() + projection.expand(x)).to(dtype))
    assert torch.equal(projection.project(y), projection.project(y.float()))


@pytest.mark.parametrize("place", [Theta, InPlaceTheta])
def test_theta_moves_by_it(place: type[Theta] | type[InPlaceTheta]) -> None:
    base, x, y = vector(D, 0), vector(25, 1), vector(WIDE, 2)
    tensors = cut(base)
    place(tensors).move_([Term(mixed("scaled"), x)], [Term(BASES["scaled"], y)])
    expected = base.double() + dense("scaled") @ x.double() + DENSE["scaled"] @ y.double()
    torch.testing.assert_close(torch.cat(tensors).double(), expected, rtol=1e-4, atol=1e-4)


def test_the_parts_of_a_sum_are_terms_of_seeded_matrices() -> None:
    projection, x = mixed("blocked-hadamard"), vector(25, 1)
    first, second = projection.split(x)
    learned = projection.parts[0]
    assert isinstance(learned, Learned)
    whole = learned.base.expand(learned.lifted(first)) + projection.parts[1].expand(second)
    torch.testing.assert_close(whole, projection.expand(x))


def test_the_mean_of_a_at_is_the_identity_for_directions_drawn_at_random() -> None:
    rows, draws = 12, 200
    total = torch.zeros(rows, rows)
    for seed in range(draws):
        learned = Learned(BlockedHadamard(rows, 8, 2 * seed), orthonormal(8, 3, seed))
        A = to_dense(Columns((learned, Partition(rows, 3, 2 * seed + 1))))
        total += A @ A.T
    assert (total / draws - torch.eye(rows)).abs().max() < 5 * (2 / 3 / draws) ** 0.5


def test_all_columns_have_one_length_whatever_was_learned() -> None:
    # Where the base's columns are orthogonal, as a blocked Hadamard's are if blocks are full.
    learned = Learned(BlockedHadamard(4096, 64, 0), torch.eye(64)[:, :7].contiguous())
    lengths = to_dense(Columns((learned, BlockedHadamard(4096, 9, 1, block=16)))).norm(dim=0)
    torch.testing.assert_close(lengths, torch.full((16,), 16.0))  # sqrt(D / d)


def test_the_digest_and_equality_are_those_of_the_bits() -> None:
    base = BASES["partition"]
    other = U.clone()
    other[0, 0] = torch.nextafter(other[0, 0], torch.tensor(1.0))
    one, same, two = Learned(base, U), Learned(base, U.clone()), Learned(base, other)
    assert one == same
    assert hash(one) == hash(same)
    assert one.digest == same.digest
    assert one != two
    assert one.digest != two.digest
    assert one.child(3) == one
    assert Columns((one, RESTS["partition"])).digest != Columns((two, RESTS["partition"])).digest


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (torch.eye(WIDE)[:, :3] * 1.2, "off I by 0.44"),
        (torch.full((WIDE, 3), torch.nan), "off I by nan"),
        (torch.zeros(WIDE, 3), "off I by 1"),
        (torch.eye(WIDE - 1), "shape"),
        (torch.eye(WIDE)[0], "shape"),
        (torch.eye(WIDE)[:, :0], "shape"),
        (torch.eye(WIDE, WIDE + 1), "shape"),
        (torch.eye(WIDE, dtype=torch.float64), "float64"),
    ],
)
def test_directions_that_are_none_are_refused(directions: Tensor, message: str) -> None:
    with pytest.raises(ProjectionError, match=message):
        Learned(BASES["partition"], directions)


def test_columns_of_nothing_and_of_other_rows_are_refused() -> None:
    with pytest.raises(ProjectionError, match="columns of nothing"):
        Columns(())
    with pytest.raises(ProjectionError, match="have 2,338, 10"):
        Columns((BASES["partition"], Partition(10, 2, 0)))


def test_leading_directions_span_the_space_that_vectors_lie_in_with_signs_of_their_own() -> None:
    space, mix = orthonormal(200, 4, 1).double(), vector(4 * 9, 2).view(9, 4).double()
    vectors = (mix @ space.T).float()
    found = leading_directions(vectors, 4)
    torch.testing.assert_close(found.T @ found, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close((found.double() @ found.double().T), space @ space.T, atol=1e-5, rtol=0)
    # The first holds most, and so on.
    held = (vectors @ found).norm(dim=0)
    assert held.tolist() == sorted(held.tolist(), reverse=True)
    assert bool((found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all())
    torch.testing.assert_close(leading_directions(-vectors, 4), found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vectors", [torch.zeros(6, 40), torch.ones(6, 40), torch.eye(6, 40)])
def test_vectors_that_tell_nothing_still_give_directions(vectors: Tensor) -> None:
    found = leading_directions(vectors, 6)
    assert Learned(Partition(100, 40, 0), found).d == 6
