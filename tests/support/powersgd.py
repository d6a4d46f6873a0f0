"""A problem for PowerSGD, and PyTorch's own hook on it, in a process of its own.

Gloo's threads abort now and then as their process group ends, and would take the tests with them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from igc.methods.powersgd import PowerSgd
from igc.optim import Sgd

SHAPES = ((8, 6), (6,), (5, 4, 3), (), (7, 9), (2, 2))
SIZES = [math.prod(shape) for shape in SHAPES]
D = sum(SIZES)


def bowl(seed: int) -> Callable[[Tensor], Tensor]:
    """The gradient of a quadratic."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(D, D, generator=generator) / D**0.5
    lowest = torch.randn(D, generator=generator)
    return lambda theta: root.T @ (root @ (theta - lowest))


class Bucket:
    """What DDP hands to a hook: the gradient, flat and cut into tensors that share its memory."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat

    def buffer(self) -> Tensor:
        return self.flat

    def index(self) -> int:
        return 0

    def is_last(self) -> bool:
        return True

    def gradients(self) -> list[Tensor]:
        # The hook cannot take a tensor without axes.
        pieces = torch.split(self.flat, SIZES)
        return [piece.view(shape or (1,)) for piece, shape in zip(pieces, SHAPES, strict=True)]


def train_by_hook(path: Path, ranks: Sequence[int], steps: int, rate: float) -> None:
    """Save what the hook makes of each gradient on its way down a bowl: (rank, error feedback) -> steps; then leave."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    torch.save(
        {(rank, feedback): _descend(rank, feedback, steps, rate) for rank in ranks for feedback in (True, False)}, path
    )
    os._exit(0)


def _descend(rank: int, error_feedback: bool, steps: int, rate: float) -> list[Tensor]:
    method = PowerSgd(SHAPES, Sgd(), rank, error_feedback, seed=4)
    state: Any = PowerSGDState(
        None, rank, start_powerSGD_iter=2, min_compression_rate=1, use_error_feedback=error_feedback
    )
    # Past the uncompressed rounds that it begins with, and at our first Q.
    state.iter = state.start_powerSGD_iter
    state.p_memory_dict[0] = torch.empty(method.sizes["left"])
    state.q_memory_dict[0] = method.init().right.clone()
    gradient, theta, found = bowl(7), torch.zeros(D), list[Tensor]()
    for _ in range(steps):
        hooked = powerSGD_hook(state, Bucket(gradient(theta).clone())).wait()
        theta = theta - rate * hooked
        found.append(hooked.clone())
    return found
