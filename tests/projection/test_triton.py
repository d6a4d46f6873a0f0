"""The GPU kernel against the reference: in Triton's interpreter on the CPU, on the GPU where there is one."""

from __future__ import annotations

import pytest
import torch

from igc.projection import BlockedHadamard, kernels
from support.strategies import vector

pytestmark = pytest.mark.skipif("triton" not in kernels.names(), reason="Triton is not installed")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# (D, d, block, first row, rows): whole blocks, ragged ends, several segments of unequal size, one block, all rows or some.
CASES = [
    (1024, 256, 256, 0, 1024),
    (1500, 200, 256, 0, 1500),
    (1500, 200, 256, 37, 1000),
    (3000, 700, 256, 129, 2500),
    (5000, 512, 512, 1, 4999),
    (900, 3, 1024, 0, 900),
    (40_000, 16_384, 0, 0, 40_000),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("D", "d", "block", "start", "rows"), CASES)
def test_it_is_the_reference(D: int, d: int, block: int, start: int, rows: int, dtype: torch.dtype) -> None:
    projection = BlockedHadamard(D=D, d=d, seed=2**64 - 5, block=block)
    g, x, y = vector(rows, 0, dtype).to(DEVICE), vector(d, 1).to(DEVICE), vector(rows, 2, dtype).to(DEVICE)
    found, moved = {}, {}
    for name in ("triton", "reference"):
        with kernels.using(name):
            found[name] = projection.project(g, start)
            moved[name] = projection.add_expanded_(y.clone(), x, start, alpha=-0.5)
    scale = g.double().norm() * (D / d) ** 0.5
    assert (found["triton"].double() - found["reference"].double()).norm() <= 3e-6 * scale
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        moved["triton"].float(), moved["reference"].float(), rtol=3 * eps, atol=max(3 * eps, 1e-5)
    )


def test_nan_passes_through() -> None:
    projection = BlockedHadamard(D=1000, d=256, seed=0)
    g = torch.zeros(1000, device=DEVICE)
    g[3] = torch.nan
    with kernels.using("triton"):
        assert projection.project(g).isnan().all()


def test_blocks_too_small_or_too_large_go_to_the_reference() -> None:
    x = torch.zeros(3, device=DEVICE)
    with kernels.using("triton"):
        assert kernels.kernel_for([x], 128) is None
        assert kernels.kernel_for([x], 2**15) is None
        assert kernels.kernel_for([x], 256) is not None
