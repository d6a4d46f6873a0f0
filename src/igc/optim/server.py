"""Server optimizers on the low-dimensional state: pairs of pure functions, init and update, as in Optax."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from igc.records import record


@record
class OptimizerState:
    """Running moments; None where the optimizer keeps none.

    Attributes:
        steps: updates so far.
        first: mean of gradients (momentum), shaped as sigma.
        second: mean of squared gradients, shaped as sigma.
    """

    steps: int = 0
    first: Tensor | None = None
    second: Tensor | None = None


class ServerOptimizer(ABC):
    """Moves sigma along a mean of uploads."""

    @abstractmethod
    def init(self, sigma: Tensor) -> OptimizerState:
        """The state before the first step."""

    @abstractmethod
    def update(
        self, state: OptimizerState, sigma: Tensor, mean: Tensor, learning_rate: float
    ) -> tuple[OptimizerState, Tensor]:
        """One step: the new state and the new sigma, as new tensors; ``mean`` is the gradient, shaped as sigma."""


@dataclass(frozen=True)
class Sgd(ServerOptimizer):
    """``v <- momentum v + mean; sigma <- sigma - learning_rate v`` (heavy ball, as torch.optim.SGD)."""

    momentum: float = 0.0

    @override
    def init(self, sigma: Tensor) -> OptimizerState:
        return OptimizerState(first=torch.zeros_like(sigma) if self.momentum else None)

    @override
    def update(
        self, state: OptimizerState, sigma: Tensor, mean: Tensor, learning_rate: float
    ) -> tuple[OptimizerState, Tensor]:
        velocity = mean if state.first is None else torch.add(mean, state.first, alpha=self.momentum)
        kept = None if state.first is None else velocity
        return OptimizerState(state.steps + 1, kept), torch.sub(sigma, velocity, alpha=learning_rate)


@dataclass(frozen=True)
class Adam(ServerOptimizer):
    """Adam (Kingma and Ba, ICLR 2015) on the mean upload: "FedAdam" of Reddi et al. (ICLR 2021) with one local step."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @override
    def init(self, sigma: Tensor) -> OptimizerState:
        return OptimizerState(first=torch.zeros_like(sigma), second=torch.zeros_like(sigma))

    @override
    def update(
        self, state: OptimizerState, sigma: Tensor, mean: Tensor, learning_rate: float
    ) -> tuple[OptimizerState, Tensor]:
        assert state.first is not None and state.second is not None
        steps = state.steps + 1
        # In few passes over memory: for uncompressed methods sigma is as long as the model.
        first = torch.lerp(mean, state.first, self.beta1)
        second = (self.beta2 * state.second).addcmul_(mean, mean, value=1 - self.beta2)
        scale = second.sqrt().div_(math.sqrt(1 - self.beta2**steps)).add_(self.epsilon)
        moved = torch.addcdiv(sigma, first, scale, value=-learning_rate / (1 - self.beta1**steps))
        return OptimizerState(steps, first, second), moved
