"""Whole-model operations against the flat vector."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection import (
    BlockedHadamard,
    Identity,
    Projection,
    Term,
    Theta,
    add_expanded_,
    kernels,
    project_tensors,
)
from igc.projection import base as projection_base
from igc.projection.tensors import expand_onto_
from igc.projection.theta import displacement
from support.strategies import COMPRESSING, make, vector


def cut(flat: Tensor, sizes: list[int]) -> list[Tensor]:
    return [piece.clone() for piece in torch.split(flat, sizes)]


@pytest.mark.parametrize("family", COMPRESSING)
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=8), seed=st.integers(0, 2**32), d=st.integers(1, 50))
def test_tensors_end_to_end_are_the_flat_vector(family: str, sizes: list[int], seed: int, d: int) -> None:
    D = sum(sizes)
    if D < d:
        return
    projection = make(family, D, d, seed)
    g, x, y = vector(D, seed), vector(d, seed + 1), vector(D, seed + 2)
    torch.testing.assert_close(
        project_tensors(projection, cut(g, sizes), sizes), projection.project(g), atol=1e-4, rtol=1e-4
    )
    pieces = cut(y, sizes)
    add_expanded_(projection, pieces, x, alpha=-0.5)
    torch.testing.assert_close(torch.cat(pieces), y - 0.5 * projection.expand(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", kernels.names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("block", [16, 1024])
def test_expanding_onto_a_base_is_a_copy_and_a_sum_bit_for_bit(kernel: str, dtype: torch.dtype, block: int) -> None:
    sizes = [1000, 0, 3, 5000, 1]
    projection = BlockedHadamard(D=sum(sizes), d=64, seed=2, block=block)
    base = [piece.to(dtype) for piece in cut(vector(projection.D, 1), sizes)]
    x = vector(64, 2)
    with kernels.using(kernel):
        expected = [piece.clone() for piece in base]
        add_expanded_(projection, expected, x)
        found = [torch.full_like(piece, torch.nan) for piece in base]
        expand_onto_(projection, found, base, x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(base, [p.to(dtype) for p in cut(vector(projection.D, 1), sizes)], strict=True)
    )


def test_windows_smaller_than_a_tensor_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [1000, 3, 5000, 1]
    projection = BlockedHadamard(D=sum(sizes), d=64, seed=2)
    g = vector(projection.D, 1)
    whole = project_tensors(projection, cut(g, sizes), sizes)
    monkeypatch.setattr("igc.projection.tensors.CHUNK_ROWS", 128)
    torch.testing.assert_close(project_tensors(projection, cut(g, sizes), sizes), whole, atol=1e-4, rtol=1e-4)


def test_a_missing_gradient_counts_as_zero() -> None:
    projection = BlockedHadamard(D=30, d=4, seed=0)
    g = vector(30, 0)
    g[10:20] = 0
    parts: list[Tensor | None] = [g[:10], None, g[20:]]
    torch.testing.assert_close(project_tensors(projection, parts, [10, 10, 10]), projection.project(g))


def test_tensors_of_any_layout_and_dtype_are_moved_in_place() -> None:
    projection = BlockedHadamard(D=24 + 10, d=5, seed=0)
    x = vector(5, 1)
    step = projection.expand(x)
    transposed = vector(24, 2).view(4, 6).t()
    half = vector(10, 3, torch.bfloat16)
    expected = transposed + step[:24].view(6, 4), (half.float() + step[24:]).to(torch.bfloat16)
    add_expanded_(projection, [transposed, half], x)
    torch.testing.assert_close(transposed, expected[0])
    assert torch.equal(half, expected[1])


def test_sizes_that_do_not_fit_are_refused() -> None:
    projection = BlockedHadamard(D=30, d=4, seed=0)
    with pytest.raises(ProjectionError, match="do not fit"):
        add_expanded_(projection, [torch.zeros(29)], torch.zeros(4))
    with pytest.raises(ProjectionError, match="do not fit"):
        project_tensors(projection, [torch.zeros(31)], [31])
    with pytest.raises(ProjectionError, match="tensor 0"):
        project_tensors(projection, [torch.zeros(29)], [30])
    with pytest.raises(ProjectionError, match="backward"):
        project_tensors(projection, [None], [30])


@pytest.mark.parametrize("family", COMPRESSING)
def test_no_state_of_size_d_is_kept(family: str) -> None:
    D = 3_000_000 if family != "dense-gaussian" else 30_000
    projection = make(family, D, 64, 0)
    g = torch.ones(D)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    projection.project(g)
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < 100_000
    held = [value for value in vars(projection).values() if isinstance(value, Tensor)]
    assert held == []


class TestTheta:
    def _theta(self, dtype: torch.dtype = torch.float32) -> tuple[Theta, list[Tensor], list[Tensor]]:
        base = [vector(n, n, dtype) for n in (70, 30, 100)]
        tensors = [t.clone() for t in base]
        return Theta(tensors), tensors, base

    def _projection(self, seed: int) -> Projection:
        return BlockedHadamard(D=200, d=16, seed=seed)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_it_is_theta_0_plus_the_sum_of_terms(self, dtype: torch.dtype) -> None:
        theta, tensors, base = self._theta(dtype)
        terms = [Term(self._projection(s), vector(16, s)) for s in range(3)]
        theta.move_(terms[2:], settled=terms[:2])
        total = sum(t.projection.expand(t.sigma) for t in terms)
        expected = (torch.cat(base).float() + total).to(dtype)
        torch.testing.assert_close(
            torch.cat(tensors), expected, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-2
        )

    def test_the_position_depends_on_the_terms_and_not_on_the_way(self) -> None:
        a, b = (Term(self._projection(s), vector(16, s)) for s in (1, 2))
        theta, tensors, _ = self._theta()
        theta.move_([b], settled=[a])
        straight = torch.cat(tensors)
        for way in ([], [b], [a, b]):
            theta.move_(way)
        theta.move_([a, b])
        assert torch.equal(torch.cat(tensors), straight)

    def test_terms_that_settle_one_by_one_give_the_same_bits_as_all_at_once(self) -> None:
        terms = [Term(self._projection(s), vector(16, s)) for s in range(6)]
        theta, tensors, _ = self._theta()
        for settled in (0, 1, 2, 4, 5, 3):  # the last goes back: a client that knows less
            theta.move_(terms[settled : settled + 1], settled=terms[:settled])
            fresh, straight, _ = self._theta()
            fresh.move_(terms[settled : settled + 1], settled=terms[:settled])
            assert torch.equal(torch.cat(tensors), torch.cat(straight))

    def test_a_displacement_sent_whole_gives_the_same_bits(self) -> None:
        past = [Term(self._projection(s), vector(16, s)) for s in range(4)]
        now = [Term(self._projection(9), vector(16, 9))]
        theta, tensors, _ = self._theta()
        theta.move_(now, settled=past)
        by_terms = torch.cat(tensors)
        whole = Term(Identity(D=200, d=200, seed=0), displacement(past, 200))
        theta.move_(now, settled=[whole])
        assert torch.equal(torch.cat(tensors), by_terms)

    def test_a_sigma_changed_in_place_is_a_new_position(self) -> None:
        theta, tensors, _ = self._theta()
        projection = BlockedHadamard(D=sum(t.numel() for t in tensors), d=4, seed=1)
        sigma = torch.ones(4)
        theta.move_([Term(projection, sigma)])
        sigma.mul_(2)
        theta.move_([Term(projection, sigma)])
        moved = torch.cat([t.reshape(-1).clone() for t in tensors])
        theta.move_([])
        theta.move_([Term(projection, torch.full((4,), 2.0))])
        assert torch.equal(torch.cat([t.reshape(-1) for t in tensors]), moved)

    def test_no_terms_is_theta_0_bit_for_bit(self) -> None:
        theta, tensors, base = self._theta()
        theta.move_([Term(self._projection(1), vector(16, 1))])
        theta.move_([])
        assert torch.equal(torch.cat(tensors), torch.cat(base))


def test_chunks_cover_every_row_once() -> None:
    projection = BlockedHadamard(D=5_000_000, d=100, seed=0)
    spans = projection._chunks(12_345, 4_999_999)
    assert spans[0][0] == 12_345
    assert spans[-1][1] == 4_999_999
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert all(stop % projection.granule == 0 for _, stop in spans[:-1])
    assert max(stop - start for start, stop in spans) <= projection_base.CHUNK_ROWS
