"""What Fastfood, partition and dense Gaussian promise beyond the contract."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from igc.errors import ProjectionError
from igc.projection import DenseGaussian, Fastfood, Identity, Partition, to_dense
from igc.projection.signs import normals, permutations


@settings(max_examples=40, deadline=None)
@given(D=st.integers(1, 120), seed=st.integers(0, 2**64 - 1), data=st.data())
def test_partition_has_one_signed_entry_a_row_in_balanced_buckets(D: int, seed: int, data: st.DataObject) -> None:
    d = data.draw(st.integers(1, D))
    A = to_dense(Partition(D=D, d=d, seed=seed))
    assert torch.equal(A.abs().sum(1), torch.ones(D))
    assert torch.equal(A.abs(), A.abs().round())
    counts = A.abs().sum(0)
    assert counts.min() >= D // d
    assert counts.max() <= math.ceil(D / d)
    assert torch.equal(A.T @ A, torch.diag(counts))


def test_partition_collides_as_rarely_as_independent_hashing() -> None:
    D, d = 10, 5
    together = torch.zeros(D, D)
    for seed in range(400):
        bucket = Partition(D=D, d=d, seed=seed).expand(torch.arange(1.0, d + 1)).abs()
        together += bucket == bucket[:, None]
    between = [(together[i, j] / 400).item() for i in range(D) for j in range(D) if i // d != j // d]
    assert all(abs(rate - 1 / d) < 0.08 for rate in between)


@settings(max_examples=25, deadline=None)
@given(log_n=st.integers(0, 5), blocks=st.integers(1, 3), seed=st.integers(0, 2**64 - 1))
def test_fastfood_has_rows_of_unit_norm_where_d_fills_its_block(log_n: int, blocks: int, seed: int) -> None:
    n = 2**log_n
    A = to_dense(Fastfood(D=n * blocks, d=n, seed=seed))
    torch.testing.assert_close(A.norm(dim=1), torch.ones(n * blocks), rtol=1e-4, atol=1e-4)


def test_fastfood_refuses_a_block_that_crops_sigma() -> None:
    with pytest.raises(ProjectionError, match="block = 8 with d = 9"):
        Fastfood(D=100, d=9, seed=0, block=8)


@pytest.mark.parametrize("bits", range(0, 12))
def test_permutations_are_permutations(bits: int) -> None:
    found = permutations(seed=5, first=3, count=7, bits=bits)
    assert torch.equal(found.sort(dim=1).values, torch.arange(2**bits).expand(7, -1))


def test_permutations_send_each_place_everywhere() -> None:
    found = permutations(seed=1, first=0, count=20_000, bits=3)
    for place in range(8):
        counts = torch.bincount(found[:, place], minlength=8).tolist()
        assert stats.chisquare(counts).pvalue > 1e-6


def test_normals_are_normal_and_independent_of_the_slice() -> None:
    z = normals(seed=11, start=0, count=200_000)
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-4
    assert torch.equal(normals(seed=11, start=777, count=1000), z[777:1777])


def test_dense_gaussian_has_entries_of_variance_one_over_d() -> None:
    A = to_dense(DenseGaussian(D=500, d=100, seed=0))
    assert stats.kstest((A * 10).flatten().numpy(), "norm").pvalue > 1e-4


def test_the_identity_keeps_everything_and_refuses_to_compress() -> None:
    assert torch.equal(to_dense(Identity(D=7, d=7, seed=0)), torch.eye(7))
    with pytest.raises(ProjectionError, match="keeps all"):
        Identity(D=7, d=6, seed=0)
