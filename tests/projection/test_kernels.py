"""Every kernel that runs here against the PyTorch reference, and against each other bit for bit."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igc.errors import ProjectionError
from igc.projection import BlockedHadamard, Partition, Projection, add_expanded_, kernels, project_tensors
from igc.projection.kernels import native, reference
from igc.projection.philox import Stream, blocks
from igc.projection.signs import flip_
from igc.projection.tensors import expand_onto_
from support.strategies import projections, vector

BUILDS = native.names()
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
builds = pytest.mark.parametrize("build", BUILDS)

pytestmark = pytest.mark.skipif(not BUILDS, reason="igc was installed without its native kernel")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def close(found: Tensor, expected: Tensor, scale: Tensor) -> None:
    """Within a small multiple of float32's rounding of what was summed, whose norm is that of ``scale``."""
    assert (found.double() - expected.double()).norm() <= 3e-6 * scale.double().norm()


def stretched(projection: Projection, g: Tensor) -> Tensor:
    """A vector as long as A^T g would be at most, were nothing to cancel."""
    return g.float() * math.sqrt(projection.D / projection.d)


def cut(flat: Tensor, sizes: list[int]) -> list[Tensor]:
    return [piece.clone() for piece in torch.split(flat, sizes)]


def rebuilt(projection: Projection, name: str, g: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    with kernels.using(name):
        return projection.project(g), projection.add_expanded_(y.clone(), x, alpha=0.7)


@contextmanager
def threads_of_its_own() -> Iterator[None]:
    """Without PyTorch's threads, as where PyTorch has no OpenMP."""
    library = native._library()
    assert library is not None
    library.igc_use_team(None)
    try:
        yield
    finally:
        library.igc_use_team(native._team())


@builds
@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32), dtype=st.sampled_from(DTYPES))
def test_every_kernel_is_the_reference(build: str, data: st.DataObject, seed: int, dtype: torch.dtype) -> None:
    family = data.draw(st.sampled_from(["blocked-hadamard", "partition", "count-sketch"]))
    projection = data.draw(projections(family, max_rows=20_000, max_dim=5000))
    g, x, y = vector(projection.D, seed), vector(projection.d, seed + 1), vector(projection.D, seed + 2, dtype)
    expected = rebuilt(projection, "reference", g.to(dtype), x, y)
    found = rebuilt(projection, build, g.to(dtype), x, y)
    close(found[0], expected[0], stretched(projection, g))
    if dtype == torch.float32:
        close(found[1], expected[1], torch.cat((y, stretched(projection, x))))
    else:  # a sum that lies between two numbers may be rounded to either
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(found[1].float(), expected[1].float(), rtol=2 * eps, atol=2 * eps)


@builds
@settings(max_examples=40)
@given(
    data=st.data(),
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    log_n=st.integers(0, 11),  # 0: a partition
    seed=st.integers(0, 2**32),
)
def test_tensors_may_start_anywhere_and_have_any_dtype(
    build: str, data: st.DataObject, sizes: list[int], log_n: int, seed: int
) -> None:
    D = sum(sizes)
    if D == 0:
        return
    d = data.draw(st.integers(1, min(D, 3000)))
    projection: Projection = Partition(D, d, seed) if log_n == 0 else BlockedHadamard(D, d, seed, block=2**log_n)
    dtypes = [data.draw(st.sampled_from(DTYPES)) for _ in sizes]
    pieces = [p.to(dtype) for p, dtype in zip(cut(vector(D, seed), sizes), dtypes, strict=True)]
    holes: list[Tensor | None] = [None if data.draw(st.booleans()) and i else p for i, p in enumerate(pieces)]
    if all(p is None or p.numel() == 0 for p in holes):
        return
    x = vector(projection.d, seed + 1)
    with kernels.using(build):
        found = project_tensors(projection, holes, sizes)
        moved = [p.clone() for p in pieces]
        add_expanded_(projection, moved, x, 0.5)
    with kernels.using("reference"):
        close(found, project_tensors(projection, holes, sizes), stretched(projection, vector(D, seed)))
        expected = [p.clone() for p in pieces]
        add_expanded_(projection, expected, x, 0.5)
    for a, b in zip(moved, expected, strict=True):
        eps = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a.float(), b.float(), rtol=3 * eps, atol=max(3 * eps, 1e-5))


@pytest.mark.parametrize(
    ("d", "block"), [(5, 0), (100, 0), (1000, 0), (5000, 0), (20_000, 0), (300_000, 0), (3000, 1024)]
)
def test_builds_and_numbers_of_threads_give_the_same_bits(d: int, block: int) -> None:
    same_bits(BlockedHadamard(D=1_000_003, d=d, seed=9, block=block))


@pytest.mark.parametrize("d", [128, 1000, 5000, 300_000])
def test_the_partitions_builds_and_numbers_of_threads_give_the_same_bits(d: int) -> None:
    same_bits(Partition(D=1_000_003, d=d, seed=9))


def same_bits(projection: Projection) -> None:
    d = projection.d
    g, x, y = vector(projection.D, 0), vector(d, 1), vector(projection.D, 2)
    results = []
    for build in BUILDS:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(rebuilt(projection, build, g, x, y))
            with threads_of_its_own():
                results.append(rebuilt(projection, build, g, x, y))
    for projected, expanded in results[1:]:
        assert torch.equal(projected, results[0][0])
        assert torch.equal(expanded, results[0][1])


_AFTER_A_FORK = """
import os, sys, torch
from igc.projection import BlockedHadamard
projection, g = BlockedHadamard(D=10**6, d=1024, seed=0), torch.arange(1e6)
torch.set_num_threads(2)
sketch = projection.project(g)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(projection.project(g), sketch) else 1)
sys.exit(os.waitpid(child, 0)[1] or not torch.equal(projection.project(g), sketch))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_threads_though_pytorchs_are_not_there() -> None:
    subprocess.run([sys.executable, "-c", _AFTER_A_FORK], check=True, timeout=60)


@builds
def test_a_large_model_written_past_the_caches_is_where_a_small_one_would_be(build: str) -> None:
    D = 2**24 + 2**20 + 37  # more than any cache
    projection = BlockedHadamard(D=D, d=3000, seed=4)
    base, x = vector(D + 5, 0), vector(3000, 1)
    for offset in (0, 5):  # at an aligned place, and where vectors lie askew
        y, at = torch.empty(D + 5)[offset : offset + D], base[offset : offset + D]
        expected = at.clone()
        with kernels.using(build):
            expand_onto_(projection, [y], [at], x)
            add_expanded_(projection, [expected], x)
        assert torch.equal(y, expected)


@builds
@pytest.mark.parametrize("log_n", range(0, 19))
def test_the_transform_is_the_reference(build: str, log_n: int) -> None:
    n = 2**log_n
    x = vector(2 * n, log_n).view(2, n)
    with kernels.using(build):
        kernel = kernels.kernel_for([x], n)
        assert isinstance(kernel, native.Native)
        close(kernel.fwht_(x.clone()), reference.fwht(x.clone()), x * n**0.5)


@builds
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision_rounds_as_pytorch_does_for_every_value(build: str, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    projection = BlockedHadamard(D=every.numel(), d=16, seed=1)
    x = vector(16, 0)
    with kernels.using(build):
        step = projection.expand(x)
        moved = projection.add_expanded_(every.clone(), x)
        still = projection.add_expanded_(every.clone(), torch.zeros(16))
    assert torch.equal(moved, (every.float() + step).to(dtype))
    assert torch.equal(still, every)


@builds
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_pass_through(build: str, dtype: torch.dtype, value: float) -> None:
    projection = BlockedHadamard(D=5000, d=300, seed=0)
    g = torch.zeros(5000, dtype=dtype)
    g[777] = value
    y = torch.zeros(5000, dtype=dtype)
    y[4999] = value
    with kernels.using(build):
        assert not projection.project(g).isfinite().any()
        moved = projection.add_expanded_(y, vector(300, 0))
    assert not moved[4999].isfinite()
    assert moved[:4999].isfinite().all()


@builds
def test_nothing_beside_the_pieces_is_read_or_written(build: str) -> None:
    arena = torch.full((4000,), torch.nan)
    piece = arena[1001:2998]
    piece.copy_(vector(1997, 0))
    projection = BlockedHadamard(D=5000, d=200, seed=0)
    with kernels.using(build):
        assert projection.project(piece, start=17).isfinite().all()
        projection.add_expanded_(piece, vector(200, 1), start=17)
    assert arena[:1001].isnan().all()
    assert arena[2998:].isnan().all()
    assert piece.isfinite().all()


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    assert kernels.kernel_for([torch.zeros(4, 6).t()], 8) is None
    assert kernels.kernel_for([torch.zeros(3, dtype=torch.float64)], 8) is None
    assert kernels.kernel_for([torch.zeros(3, device="meta")], 8) is None
    assert kernels.kernel_for([torch.zeros(3)], 8) is not None


def test_an_unknown_kernel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProjectionError, match=r"no kernel 'sse9' here; there are .*reference"):
        kernels.choose("sse9")


@builds
@settings(max_examples=60)
@given(
    count=st.one_of(st.integers(0, 300), st.integers(0, 140_000)),
    start=st.one_of(st.integers(0, 300), st.integers(2**32 - 300, 2**40)),
    seed=st.integers(0, 2**64 - 1),
    stream=st.sampled_from(Stream),
)
def test_signs_are_the_references_wherever_a_slice_starts(
    build: str, count: int, start: int, seed: int, stream: Stream
) -> None:
    x = vector(count, 3)
    with kernels.using("reference"):
        expected = flip_(x.clone(), seed, stream, start)
    with kernels.using(build):
        assert torch.equal(flip_(x.clone(), seed, stream, start), expected)


@builds
def test_flipping_passes_nan_through_with_its_payload(build: str) -> None:
    x = torch.full((1000,), math.nan)
    with kernels.using(build):
        flip_(x, 7, Stream.ROW_SIGNS, 5)
    assert bool(x.isnan().all())
    assert {int(bits) & 0x7FFFFFFF for bits in x.view(torch.int32)} == {0x7FC00000}


@builds
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**64 - 1),
    first=st.one_of(st.integers(0, 100), st.integers(2**32 - 50, 2**33), st.integers(2**55, 2**56)),
    count=st.one_of(st.integers(0, 50), st.integers(4000, 20_000)),
    stream=st.sampled_from(Stream),
)
def test_random_words_are_the_references(build: str, seed: int, first: int, count: int, stream: Stream) -> None:
    with kernels.using(build):
        found = blocks(seed, stream, first, count)
    with kernels.using("reference"):
        assert torch.equal(found, blocks(seed, stream, first, count))


_FORKED_BEFORE_THE_LIBRARY_WAS_LOADED = """
import os, sys, torch
from igc.projection import BlockedHadamard
torch.set_num_threads(2)
g = (torch.ones(10**6) * 2).cumsum(0)  # PyTorch's threads are there
child = os.fork()
if child == 0:
    BlockedHadamard(D=10**6, d=1024, seed=0).project(g)
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_before_the_library_was_loaded_has_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-c", _FORKED_BEFORE_THE_LIBRARY_WAS_LOADED], check=True, timeout=60)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_a_kernel_named_by_the_environment_is_taken_where_triton_is() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "IGC_KERNEL": "reference"}
    subprocess.run([sys.executable, "-c", "import igc.projection"], check=True, timeout=60, env=environment)
