"""Methods with their model on a GPU, beside the same on the CPU; `benchmarks/gpu.py` runs these where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from igc.federation import Fused
from support.federation import LINEAR, METHODS, Federation

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ROUNDS = 5
# Their codecs draw noise from the values themselves: numbers that differ in the last bit are rounded another way.
LOSSY = ("k-subspace-time-varying-error-feedback", "time-varying-scaffold", "calibrated-local")
# Blocks of 8 are the reference's, of 128 the kernel's. Burn-in begins with 2 d dimensions, of which D has not enough.
CASES = [(name, d) for name in METHODS for d in (8, 100) if d == 8 or "burn-in" not in name]


def way(name: str, d: int, device: str, fused: bool = False) -> Tensor:
    """From theta_0 to where the rounds led, flat."""
    federation = Federation(METHODS[name], d=d, device=device)
    assert all(parameter.device.type == device for parameter in federation.workplace.parameters)
    if fused:
        federation.engine.inner = Fused(federation.engine.inner, federation.workplace)  # type: ignore[assignment]
    federation.run(ROUNDS)
    return federation.position().cpu() - federation.base.cpu()


@pytest.mark.parametrize(("name", "d"), CASES)
def test_a_gpu_goes_where_the_cpu_goes(name: str, d: int) -> None:
    there, here = way(name, d, "cuda"), way(name, d, "cpu")
    assert (there - here).norm() <= (0.1 if name in LOSSY else 1e-3) * here.norm()


@pytest.mark.parametrize("name", LINEAR)
def test_fused_rounds_do_too(name: str) -> None:
    there, here = way(name, 8, "cuda", fused=True), way(name, 8, "cpu")
    assert (there - here).norm() <= 1e-3 * here.norm()
