"""Weights that begin where vectors do.

`from_pretrained` maps a file into memory, and leaves each tensor where the file has it, as a rule no multiple of what a
vector instruction loads. Products of matrices take that as it is; what is written past the caches cannot.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, TypeVar

from torch import nn

ALIGNMENT: Final = 64  # bytes: a vector of AVX-512, and a line of a cache

Model = TypeVar("Model", bound=nn.Module)


def align_(model: Model) -> Model:
    """Move the trainable parameters on the CPU that begin elsewhere to places of their own, at multiples of 64 bytes.

    Parameters stay the same objects, so that modules which share one still do. One whose memory another has, too, stays
    where it is; so does what is not trained, which nobody writes.
    """
    here = [parameter for parameter in model.parameters() if parameter.device.type == "cpu"]
    owners = Counter(parameter.untyped_storage().data_ptr() for parameter in here)
    for parameter in here:
        alone = owners[parameter.untyped_storage().data_ptr()] == 1
        if alone and parameter.requires_grad and parameter.data_ptr() % ALIGNMENT:
            parameter.data = parameter.data.clone()
    return model
