"""The GPU kernel against the reference and the native kernel: in Triton's interpreter, on the GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from igc.projection import BlockedHadamard, Scaled, kernels
from igc.projection.kernels import native
from igc.projection.tensors import add_expanded_, expand_onto_, project_tensors
from support.strategies import vector

pytestmark = pytest.mark.skipif("triton" not in kernels.names(), reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ON_CPU = next(iter(native.names()), "reference")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)

# (D, d, block, first row, rows): whole blocks, ragged ends, several segments of unequal size, one block, all rows or some,
# every power of two; and rows that 32 bits do not count.
CASES = [
    (1024, 256, 256, 0, 1024),
    (1500, 200, 256, 0, 1500),
    (1500, 200, 256, 37, 1000),
    (3000, 700, 256, 129, 2500),
    (1000, 100, 0, 1, 998),
    (5000, 512, 512, 1, 4999),
    (900, 3, 1024, 0, 900),
    (9000, 2000, 0, 0, 9000),
    (9000, 4096, 0, 3, 8997),
    (9000, 5000, 0, 16, 8984),
    (40_000, 16_384, 0, 0, 40_000),
    (60_000, 40_000, 0, 1, 59_999),
    (2**40, 700, 256, 2**39 + 5, 1500),
    (2**34, 300, 512, 2**31 - 600, 1200),
]


@DTYPES
@pytest.mark.parametrize(("D", "d", "block", "start", "rows"), CASES)
def test_it_is_the_others(D: int, d: int, block: int, start: int, rows: int, dtype: torch.dtype) -> None:
    projection = BlockedHadamard(D=D, d=d, seed=2**64 - 5, block=block)
    g, x, y = vector(rows, 0, dtype), vector(d, 1), vector(rows, 2, dtype)

    def by(name: str, device: str) -> tuple[Tensor, Tensor]:
        with kernels.using(name):
            sketch = projection.project(g.to(device), start)
            return sketch.cpu(), projection.add_expanded_(y.clone().to(device), x.to(device), start, alpha=-0.5).cpu()

    eps = torch.finfo(dtype).eps
    sketch, moved = by("triton", DEVICE)
    for sketch_, moved_ in (by("reference", DEVICE), by(ON_CPU, "cpu")):
        assert close(sketch, sketch_, g, (max(rows, d) / d) ** 0.5)
        torch.testing.assert_close(moved.float(), moved_.float(), rtol=3 * eps, atol=max(3 * eps, 1e-5))


@pytest.mark.parametrize("seed", [0, 1, 5, 16, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
def test_every_seed(seed: int) -> None:
    # Triton gives numbers of a launch a type, and may make constants of them, by their values.
    projection = BlockedHadamard(D=1000, d=200, seed=seed)
    x, g = vector(200, 0), vector(1000, 1)
    with kernels.using("triton"):
        y, s = projection.expand(x.to(DEVICE)).cpu(), projection.project(g.to(DEVICE)).cpu()
    with kernels.using(ON_CPU):
        torch.testing.assert_close(y, projection.expand(x), rtol=1e-5, atol=1e-5)
        assert close(s, projection.project(g), g, 5**0.5)


@DTYPES
def test_many_tensors_each_with_its_weight(dtype: torch.dtype) -> None:
    sizes = [500, 1, 0, 255, 1300, 44]
    projection = Scaled.of(BlockedHadamard(D=2100, d=300, seed=7, block=256), sizes, [1.0, 9.0, 1.0, 0.5, 2.0, 0.25])
    gradients = [vector(size, index, dtype) for index, size in enumerate(sizes)]
    bases = [vector(size, 10 + index, dtype) for index, size in enumerate(sizes)]
    x = vector(300, 99)

    def moved(device: str) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        def there(tensors: Sequence[Tensor]) -> list[Tensor]:
            return [tensor.clone().to(device) for tensor in tensors]

        added, onto = there(bases), [torch.full_like(base, torch.nan) for base in there(bases)]
        add_expanded_(projection, added, x.to(device), alpha=0.5)
        expand_onto_(projection, onto, there(bases), x.to(device))
        return project_tensors(projection, there(gradients), sizes).cpu(), added, onto

    with kernels.using("triton"):
        sketch, added, onto = moved(DEVICE)
    with kernels.using(ON_CPU):
        sketch_, added_, onto_ = moved("cpu")
    assert close(sketch, sketch_, torch.cat(gradients), 9 * 7**0.5)
    eps = torch.finfo(dtype).eps
    for found, wanted in zip([*added, *onto], [*added_, *onto_], strict=True):
        torch.testing.assert_close(found.cpu().float(), wanted.float(), rtol=3 * eps, atol=max(9 * eps, 3e-5))


def test_moving_onto_other_tensors_gives_the_bits_of_a_copy_and_a_step() -> None:
    projection = BlockedHadamard(D=1700, d=300, seed=3, block=256)
    x, base = vector(300, 0).to(DEVICE), vector(1700, 1).to(DEVICE)
    onto, copy = torch.empty_like(base), base.clone()
    with kernels.using("triton"):
        expand_onto_(projection, [onto], [base], x)
        add_expanded_(projection, [copy], x)
    assert torch.equal(onto, copy)
    assert not torch.equal(onto, base)


def test_partial_sums_are_as_few_as_the_constant_says(monkeypatch: pytest.MonkeyPatch) -> None:
    # One program for each segment then takes all blocks of it; the sums are those of many programs.
    from igc.projection.kernels import triton_gpu

    projection = BlockedHadamard(D=8000, d=700, seed=1, block=256)
    g = vector(8000, 0).to(DEVICE)
    with kernels.using("triton"):
        many = projection.project(g)
        monkeypatch.setattr(triton_gpu, "_SUMS", 1)
        assert close(projection.project(g), many, g, 4.0)


def test_nan_passes_through() -> None:
    projection = BlockedHadamard(D=1000, d=256, seed=0)
    g = torch.zeros(1000, device=DEVICE)
    g[3] = torch.nan
    with kernels.using("triton"):
        assert projection.project(g).isnan().all()


def test_blocks_too_small_or_too_large_go_to_the_reference() -> None:
    x = torch.zeros(3, device=DEVICE)
    with kernels.using("triton"):
        assert kernels.kernel_for([x], 64) is None
        assert kernels.kernel_for([x], 2**15) is None
        assert kernels.kernel_for([x], 128) is not None


def test_tensors_on_several_devices_go_to_the_reference() -> None:
    with kernels.using("triton"):
        assert kernels.kernel_for([torch.zeros(3, device=DEVICE), torch.zeros(3, device="meta")], 256) is None


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device")
def test_it_runs_where_the_tensors_are() -> None:
    projection = BlockedHadamard(D=1000, d=256, seed=0)
    g = vector(1000, 0)
    with kernels.using("triton"):
        assert torch.equal(projection.project(g.to("cuda:1")).cpu(), projection.project(g.to("cuda:0")).cpu())


# What Triton's interpreter takes is more than its compiler does: Python names, any amount of shared memory.
COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from igc.projection.kernels import triton_gpu as t

n = int(sys.argv[1])
common = dict(seed="i64", segments="i32", log="constexpr")
rows = dict(start="i64", stop="i64")
signatures = {
    t._project_kernel: dict(g="*bf16", **rows, scale="fp32", sums="*fp32", **common),
    t._expand_kernel: dict(
        y="*fp32", base="*fp32", **rows, x="*fp32", size="i32", longer="i32", scale="fp32", longer_scale="fp32", **common
    ),
}
for kernel, types in signatures.items():
    types = {name: types[name] for name in kernel.arg_names}
    source = ASTSource(kernel, types, {"log": n.bit_length() - 1})
    print(triton.compile(source, target=GPUTarget("cuda", 80, 32), options=t._options(n)).metadata.shared)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler")
@pytest.mark.parametrize("n", [128, 2**14])
def test_it_compiles_and_fits_into_shared_memory(n: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(n)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(int(size) <= 64 * 1024 for size in done.stdout.split())  # what GPUs since 2018 have


def close(found: Tensor, wanted: Tensor, g: Tensor, gain: float) -> bool:
    """Whether two sketches of g agree to the rounding of float32; ``gain`` is about |A^T g| / |g|."""
    error = (found.cpu().double() - wanted.cpu().double()).norm()
    return bool(error <= 3e-6 * gain * g.cpu().double().norm())
