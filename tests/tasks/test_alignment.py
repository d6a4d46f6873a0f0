"""Weights are moved to where vectors begin, and are the same weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from igc.tasks.alignment import ALIGNMENT, align_


def askew(*shape: int) -> torch.Tensor:
    """A tensor that begins four bytes after the beginning of its memory."""
    size = math.prod(shape)
    return torch.randn(size + 1, generator=torch.Generator().manual_seed(size))[1:].view(shape)


def test_parameters_that_begin_elsewhere_are_moved_and_stay_shared() -> None:
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    second.weight = first.weight
    weight, bias = askew(3, 4), askew(3)
    first.weight.data, first.bias.data = weight, bias
    assert first.weight.data_ptr() % ALIGNMENT
    at_home = second.bias.data_ptr()

    model = align_(nn.Sequential(first, second))

    assert all(parameter.data_ptr() % ALIGNMENT == 0 for parameter in model.parameters())
    assert second.weight is first.weight
    assert torch.equal(first.weight, weight)
    assert torch.equal(first.bias, bias)
    assert second.bias.data_ptr() == at_home  # nothing is copied in vain


def test_what_is_frozen_or_lies_in_anothers_memory_stays_there() -> None:
    first, second, frozen = (nn.Linear(4, 3, bias=False) for _ in range(3))
    memory = askew(3, 4)
    first.weight.data = second.weight.data = memory
    frozen.weight.data = askew(3, 4)
    frozen.weight.requires_grad_(False)
    places = [layer.weight.data_ptr() for layer in (first, second, frozen)]

    align_(nn.Sequential(first, second, frozen))

    assert [layer.weight.data_ptr() for layer in (first, second, frozen)] == places
