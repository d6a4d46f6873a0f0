"""Weights are moved to where vectors begin, and are the same weights."""

from __future__ import annotations

import torch
from torch import nn

from igc.tasks.alignment import ALIGNMENT, align_


def test_parameters_that_begin_elsewhere_are_moved_and_stay_shared() -> None:
    memory = torch.randn(1 + 12 + 3, generator=torch.Generator().manual_seed(0))
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    second.weight = first.weight
    first.weight.data, first.bias.data = memory[1:13].view(3, 4), memory[13:]
    assert first.weight.data_ptr() % ALIGNMENT
    at_home = second.bias.data_ptr()

    model = align_(nn.Sequential(first, second))

    assert all(parameter.data_ptr() % ALIGNMENT == 0 for parameter in model.parameters())
    assert second.weight is first.weight
    assert torch.equal(first.weight.flatten(), memory[1:13])
    assert torch.equal(first.bias, memory[13:])
    assert second.bias.data_ptr() == at_home  # nothing is copied in vain
