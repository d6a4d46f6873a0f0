"""Whether all of a tensor's numbers are finite."""

from __future__ import annotations

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no element of a floating-point tensor, of any shape and on any device, is NaN or infinite.

    A sum is finite only if every summand is. It is one pass over memory, where a mask of a model's size takes fifty times
    as long; a sum that overflows proves nothing, and only then is the mask made.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
