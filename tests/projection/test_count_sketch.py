"""Count Sketch, the partition in long runs, and coordinates, against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from igc.errors import ProjectionError
from igc.projection import Coordinates, CountSketch, Partition, to_dense
from igc.projection.philox import Stream, words
from support.strategies import vector


def sparse(D: int, heavy: int, seed: int, noise: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """A vector with a few large coordinates, and where they are."""
    g = noise * vector(D, seed)
    places = torch.randperm(D, generator=torch.Generator().manual_seed(seed))[:heavy].sort().values
    g[places] = 10.0 * vector(heavy, seed + 1).sign()
    return g, places


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
def test_an_estimate_is_the_median_of_what_each_row_says(rows: int) -> None:
    sketch = CountSketch(D=200, d=rows * 30, seed=5, rows=rows)
    g = vector(200, 1)
    A = to_dense(sketch) * math.sqrt(rows)  # entries -1, 0 and 1
    table = A.T @ g
    says = torch.stack([A[:, 30 * q : 30 * q + 30] @ table[30 * q : 30 * q + 30] for q in range(rows)])
    expected = says.median(dim=0).values
    torch.testing.assert_close(sketch.estimate(sketch.project(g)), expected, atol=1e-5, rtol=1e-5)


def test_each_row_counts_each_coordinate_once_and_rows_differ() -> None:
    A = to_dense(CountSketch(D=200, d=90, seed=5, rows=3)) * math.sqrt(3)
    blocks = [A[:, 30 * q : 30 * q + 30] for q in range(3)]
    for block in blocks:
        assert torch.equal(block.abs().round().sum(1), torch.ones(200))
    assert not torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[1], blocks[2])


def test_heavy_hitters_are_found_and_valued() -> None:
    g, places = sparse(D=100_000, heavy=100, seed=3)
    sketch = CountSketch(D=100_000, d=5 * 5000, seed=0, rows=5)
    found = sketch.estimate(sketch.project(g))
    assert torch.equal(found.abs().topk(100).indices.sort().values, places)
    assert (found[places] - g[places]).abs().max() < 1


def test_sketches_merge() -> None:
    sketch = CountSketch(D=5000, d=3 * 400, seed=0, rows=3)
    a, b = vector(5000, 1), vector(5000, 2)
    torch.testing.assert_close(
        sketch.project(a) - 2 * sketch.project(b), sketch.project(a - 2 * b), atol=1e-4, rtol=1e-4
    )


def test_estimates_are_right_on_average_over_seeds() -> None:
    g = vector(60, 1)
    draws = [CountSketch(D=60, d=3 * 20, seed=seed, rows=3) for seed in range(2000)]
    mean = torch.stack([sketch.estimate(sketch.project(g)) for sketch in draws]).mean(0)
    # A row's error has the variance |g|^2 / c; the median of three has less. Five standard errors, over 60 coordinates.
    assert (mean - g).abs().max() < 5 * float(g.norm()) / math.sqrt(20 * 2000)


def test_with_as_many_columns_as_coordinates_nothing_is_lost() -> None:
    sketch = CountSketch(D=300, d=3 * 300, seed=9, rows=3)
    g = vector(300, 1)
    torch.testing.assert_close(sketch.estimate(sketch.project(g)), g, atol=1e-6, rtol=1e-6)


def test_sizes_that_make_no_sketch_are_refused() -> None:
    with pytest.raises(ProjectionError, match="columns = 101 exceeds D = 100"):
        CountSketch(D=100, d=505, seed=0, rows=5)
    with pytest.raises(ProjectionError, match="d = 99 numbers are not 5 rows"):
        CountSketch(D=100, d=99, seed=0, rows=5)
    with pytest.raises(ProjectionError, match="rows = 0"):
        CountSketch(D=100, d=99, seed=0, rows=0)


@pytest.mark.parametrize(("start", "stop"), [(0, 23_000), (4_999, 5_001), (7_000, 7_003), (3, 22_999)])
def test_a_partition_of_long_groups_is_the_one_that_its_specification_names(start: int, stop: int) -> None:
    D, d, seed = 23_000, 5_000, 12
    part = Partition(D, d, seed)
    rows = torch.arange(start, stop)
    shift = words(seed, Stream.SHIFTS, 0, -(-D // d)) * d >> 32
    buckets = (rows % d + shift[rows // d]) % d
    word = words(seed, Stream.ROW_SIGNS, 0, -(-D // 32))
    signs = 1.0 - 2.0 * (word[rows // 32] >> (rows % 32) & 1)
    g, x = vector(stop - start, 1), vector(d, 2)
    torch.testing.assert_close(part.project(g, start), torch.zeros(d).index_add(0, buckets, g * signs))
    assert torch.equal(part.expand(x, start, stop), x[buckets] * signs)


def test_coordinates_are_one_of_each_stratum_and_any_of_them() -> None:
    D, d = 103, 10
    seen = torch.zeros(D)
    for seed in range(300):
        A = to_dense(Coordinates(D, d, seed))
        rows = A.abs().argmax(0)
        for j, row in enumerate(rows.tolist()):
            assert j * D // d <= row < (j + 1) * D // d
            size = (j + 1) * D // d - j * D // d
            assert A[row, j] == pytest.approx(math.sqrt(size))
        assert int((A != 0).sum()) == d
        seen[rows] += 1
    assert seen.min() > 0  # 300 draws of one in ten or eleven


def test_all_coordinates_are_the_identity() -> None:
    assert torch.equal(to_dense(Coordinates(50, 50, seed=4)), torch.eye(50))
