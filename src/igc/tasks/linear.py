"""Linear layers at the speed of the processor, where PyTorch's own are not.

On x86, PyTorch multiplies float32 matrices by MKL, which on other makers' processors leaves AVX-512 unused. oneDNN, which
is in the same PyTorch and computes its convolutions, does not: on an AMD Zen 5 it multiplied twice as fast. Layers are
changed in place, where that is so; names, weights and gradients stay what they were, to rounding.

``IGC_LINEAR=torch`` leaves all layers as they are, ``IGC_LINEAR=onednn`` changes them on any CPU.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from typing_extensions import override

from igc.errors import ModelError

VARIABLE: Final = "IGC_LINEAR"
_CPUINFO: Final = Path("/proc/cpuinfo")


def quicken_(model: nn.Module) -> nn.Module:
    """Let a model's linear layers be computed by oneDNN, if that is faster on this machine; returns the model.

    Plain float32 `torch.nn.Linear` on the CPU alone: layers of classes derived from it stay as they are.

    Raises:
        ModelError: ``IGC_LINEAR`` holds another word.
    """
    if _wanted():
        for module in model.modules():
            if type(module) is nn.Linear and module.weight.dtype == torch.float32 and not module.weight.is_cuda:
                module.__class__ = OneDnnLinear
    return model


class OneDnnLinear(nn.Linear):
    """`torch.nn.Linear` whose three products (forward, and two backward) are oneDNN's."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Input (..., in) -> (..., out)."""
        if input.dtype != torch.float32 or input.is_cuda or self.weight.is_cuda or input.numel() == 0:
            return functional.linear(input, self.weight, self.bias)
        result: Tensor = _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result


class _Linear(torch.autograd.Function):
    """y = x W^T + b."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @override
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = above[0].reshape(-1, weight.shape[0])
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()).view(x.shape) if to_x else None,
            _product(gradient.t(), x.reshape(-1, x.shape[-1]).t()) if to_weight else None,
            gradient.sum(0) if to_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


def _wanted() -> bool:
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in ("auto", "torch", "onednn"):
        raise ModelError(f"{VARIABLE}={asked}; it may be auto, torch or onednn")
    if asked == "torch" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return asked == "onednn" or _mkl_leaves_units_unused()


@cache
def _mkl_leaves_units_unused() -> bool:
    """Whether PyTorch's BLAS is MKL, on a processor with AVX-512 that is not Intel's."""
    mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not mkl or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return _CPUINFO.is_file() and "AuthenticAMD" in _CPUINFO.read_text(encoding="utf-8", errors="replace")
