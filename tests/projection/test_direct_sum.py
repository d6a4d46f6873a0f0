"""A direct sum against its parts, written out densely."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection import (
    BlockedHadamard,
    DirectSum,
    Identity,
    Partition,
    Scaled,
    add_expanded_,
    kernels,
    project_tensors,
    to_dense,
)
from igc.projection.tensors import expand_onto_
from support.strategies import vector

SIZES = (700, 40, 0, 1300, 5, 260, 33)
GROUPS = (0, 2, 1, 1, 2, 0, 1)
PARTS = BlockedHadamard(D=960, d=30, seed=1, block=128), Partition(D=1333, d=17, seed=2), Identity(45, 45, 0)
SUM = DirectSum(PARTS, SIZES, GROUPS)


def dense() -> Tensor:
    """Rows of the space, columns of the groups, float64."""
    A = torch.zeros(SUM.D, SUM.d, dtype=torch.float64)
    row = 0
    begins = [0, 0, 0]
    columns = [0, 30, 47, 92]
    matrices = [to_dense(part).double() for part in PARTS]
    for size, group in zip(SIZES, GROUPS, strict=True):
        block = matrices[group][begins[group] : begins[group] + size]
        A[row : row + size, columns[group] : columns[group + 1]] = block
        begins[group] += size
        row += size
    return A


def cut(flat: Tensor) -> list[Tensor]:
    return [piece.clone() for piece in torch.split(flat, list(SIZES))]


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize("scaled", [False, True])
def test_it_is_its_parts_side_by_side(kernel: str, scaled: bool) -> None:
    raw = (1.0, 2.0, 1.0, 0.5, 4.0, 3.0, 1.0)
    projection = Scaled.of(SUM, SIZES, raw) if scaled else SUM
    A = dense()
    if isinstance(projection, Scaled):
        A *= torch.repeat_interleave(torch.tensor(projection.weights).double(), torch.tensor(SIZES))[:, None]
    g, x, y = vector(SUM.D, 0), vector(SUM.d, 1), vector(SUM.D, 2)
    with kernels.using(kernel):
        torch.testing.assert_close(to_dense(projection).double(), A, rtol=1e-6, atol=1e-6)
        for sketch in (projection.project(g), project_tensors(projection, cut(g), SIZES)):
            torch.testing.assert_close(sketch.double(), A.T @ g.double(), rtol=1e-5, atol=1e-4)
        moved, onto = cut(y), cut(g)
        add_expanded_(projection, moved, x, -0.5)
        torch.testing.assert_close(torch.cat(moved).double(), y.double() - 0.5 * A @ x.double(), rtol=1e-5, atol=1e-5)
        expand_onto_(projection, onto, cut(y), x)
        add_expanded_(projection, added := cut(y), x)
    assert torch.equal(torch.cat(onto), torch.cat(added))


def test_gradients_that_are_missing_and_slices_that_begin_anywhere() -> None:
    g, A = vector(SUM.D, 0), dense()
    holes: list[Tensor | None] = [*cut(g)]
    holes[0] = holes[4] = None
    g[:700] = g[2040:2045] = 0
    torch.testing.assert_close(project_tensors(SUM, holes, SIZES).double(), A.T @ g.double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        SUM.project(g[650:2100], 650).double(), A[650:2100].T @ g[650:2100].double(), rtol=1e-5, atol=1e-4
    )


def test_children_change_every_part() -> None:
    child = SUM.child(3)
    assert child.parts[:2] == (PARTS[0].child(3), PARTS[1].child(3))
    assert child.sizes == SUM.sizes


@pytest.mark.parametrize(
    ("sizes", "groups", "message"),
    [
        (SIZES, (0, 2, 1, 1, 2, 0, 3), "from 0 to 3"),
        (SIZES[:-1], GROUPS, "7 groups"),
        ((701, *SIZES[1:]), GROUPS, "group 0 has 961 elements, and its projection 960 rows"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(sizes: tuple[int, ...], groups: tuple[int, ...], message: str) -> None:
    with pytest.raises(ProjectionError, match=message):
        DirectSum(PARTS, sizes, groups)


def test_sums_of_sums_and_of_nothing_are_refused() -> None:
    with pytest.raises(ProjectionError, match="nothing"):
        DirectSum((), (), ())
    with pytest.raises(ProjectionError, match="no direct sum for a part"):
        DirectSum((SUM,), (SUM.D,), (0,))
