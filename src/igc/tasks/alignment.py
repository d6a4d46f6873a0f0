"""Weights that begin where vectors do.

`from_pretrained` maps a file into memory, and leaves each tensor where the file has it, as a rule no multiple of what a
vector instruction loads. Products of matrices take that as it is; what is written past the caches cannot.
"""

from __future__ import annotations

from typing import Final, TypeVar

from torch import nn

ALIGNMENT: Final = 64  # bytes: a vector of AVX-512, and a line of a cache

Model = TypeVar("Model", bound=nn.Module)


def align_(model: Model) -> Model:
    """Move the parameters on the CPU that begin elsewhere to places of their own, at multiples of 64 bytes.

    Parameters stay the same objects, so that what modules share stays shared.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()
    return model
