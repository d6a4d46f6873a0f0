"""Server optimizers on the low-dimensional state: pairs of pure functions, init and update, as in Optax."""

from __future__ import annotations

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
        velocity = mean if state.first is None else self.momentum * state.first + mean
        kept = None if state.first is None else velocity
        return OptimizerState(state.steps + 1, kept), sigma - learning_rate * velocity


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
        first = self.beta1 * state.first + (1 - self.beta1) * mean
        second = self.beta2 * state.second + (1 - self.beta2) * mean.square()
        step = first / (1 - self.beta1**steps)
        scale = (second / (1 - self.beta2**steps)).sqrt() + self.epsilon
        return OptimizerState(steps, first, second), sigma - learning_rate * step / scale
