"""What blocked Hadamard alone promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard

from igc.errors import ProjectionError
from igc.projection import BlockedHadamard, to_dense
from igc.projection.kernels import reference
from support.strategies import vector


@settings(max_examples=30, deadline=None)
@given(log_n=st.integers(0, 5), segments=st.integers(1, 4), repeats=st.integers(1, 5), seed=st.integers(0, 2**64 - 1))
@example(log_n=7, segments=2, repeats=3, seed=1)
def test_columns_are_exactly_orthogonal_where_blocks_are_full(
    log_n: int, segments: int, repeats: int, seed: int
) -> None:
    n = 2**log_n
    d, D = n * segments, n * segments * repeats
    A = to_dense(BlockedHadamard(D=D, d=d, seed=seed, block=n)).double()
    torch.testing.assert_close(A.T @ A, torch.eye(d, dtype=torch.float64) * (D / d), rtol=0, atol=1e-6 * D / d)


@pytest.mark.parametrize("log_n", range(0, 13))
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_transform_is_the_hadamard_matrix(log_n: int, precision: str) -> None:
    n = 2**log_n
    x = vector(3 * n, log_n).view(3, n)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        y = reference.fwht(x.clone())
    finally:
        torch.set_float32_matmul_precision(before)
    expected = x.double() @ torch.from_numpy(hadamard(n, dtype=float))
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)


def test_a_precision_set_by_the_newer_switches_does_not_lower_the_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    # Once torch.backends.cuda.matmul.fp32_precision was set, PyTorch answers the older question with an error.
    def refuse() -> str:
        raise RuntimeError("mix of the legacy and new APIs")

    x = vector(3 * 256, 0).view(3, 256)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    expected = x.double() @ torch.from_numpy(hadamard(256, dtype=float))
    torch.testing.assert_close(reference.fwht(x).double(), expected, rtol=1e-5, atol=1e-4)


def test_columns_are_orthogonal_for_every_d_up_to_the_block_where_blocks_are_full() -> None:
    for d in range(1, 17):
        A = to_dense(BlockedHadamard(D=64, d=d, seed=d, block=16)).double()
        torch.testing.assert_close(A.T @ A, torch.eye(d, dtype=torch.float64) * (64 / d), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("d", "block"), [(1, 1), (2, 2), (3, 4), (1000, 1024), (16_384, 16_384), (100_000, 16_384)])
def test_the_default_block_is_the_least_power_of_two_of_at_least_d_up_to_2_14(d: int, block: int) -> None:
    assert BlockedHadamard(D=10**6, d=d, seed=0).block == block


@settings(max_examples=50, deadline=None)
@given(d=st.integers(1, 130), block=st.sampled_from([1, 2, 16, 64]))
@example(d=500, block=64)
@example(d=500, block=16)
def test_segments_cut_the_columns_without_gap_and_nearly_evenly(d: int, block: int) -> None:
    projection = BlockedHadamard(D=1000, d=d, seed=0, block=block)
    # Row b n of block b has an entry in each column of its segment, and nowhere else.
    rows = _supports(projection)
    assert sorted(column for row in rows for column in row) == list(range(d))
    sizes = {len(row) for row in rows}
    assert max(sizes) - min(sizes) <= 1


def _supports(projection: BlockedHadamard) -> list[list[int]]:
    one = torch.ones(1)
    return [
        projection.project(one, b * projection.block).nonzero().view(-1).tolist() for b in range(projection.segments)
    ]


@pytest.mark.parametrize("block", [3, -1, 2**25])
def test_a_block_that_is_no_power_of_two_is_refused(block: int) -> None:
    with pytest.raises(ProjectionError, match="power of two"):
        BlockedHadamard(D=10, d=2, seed=0, block=block)
