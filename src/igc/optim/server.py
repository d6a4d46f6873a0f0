"""Server optimizers on the low-dimensional state: pairs of pure functions, init and update, as in Optax."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

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


Carry = Literal["reset", "carry-scale", "carry-over"]


def carried(state: OptimizerState, fresh: OptimizerState, carry: Carry) -> OptimizerState:
    """The state with which a new subspace begins.

    A mean of gradients is a direction in the subspace that is over. Of it, the new one holds about a share d / D, which is
    nothing; taken over number by number it is noise of the same length. Mean squares say how large gradients are, and that
    changes little.

    Args:
        state: of the subspace that is over.
        fresh: of a first round.
        carry: "reset": ``fresh``; "carry-scale": mean squares and the count of steps stay, the mean of gradients starts at
            zero; "carry-over": all stays, number by number.
    """
    if carry == "reset":
        return fresh
    return state if carry == "carry-over" else dataclasses.replace(state, first=fresh.first)


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
        # A resumed run's recipe may have another momentum than its checkpoint: a velocity that is missing begins at zero,
        # and one that nothing needs is dropped, so that none is stale where momentum comes back.
        if not self.momentum:
            return OptimizerState(state.steps + 1), torch.sub(sigma, mean, alpha=learning_rate)
        velocity = mean if state.first is None else torch.add(mean, state.first, alpha=self.momentum)
        return OptimizerState(state.steps + 1, velocity), torch.sub(sigma, velocity, alpha=learning_rate)


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


@dataclass(frozen=True)
class Yogi(ServerOptimizer):
    """Yogi (Zaheer et al., NeurIPS 2018) as "FedYogi" of Reddi et al. (ICLR 2021, algorithm 2): no bias correction.

    ::

        m <- beta1 m + (1 - beta1) mean
        v <- v - (1 - beta2) mean^2 sign(v - mean^2)              starting at epsilon^2
        sigma <- sigma - learning_rate m / (sqrt(v) + epsilon)

    Mean squares change by no more than a share of the last square, so that rare large gradients are not forgotten as soon
    as Adam forgets them.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8

    @override
    def init(self, sigma: Tensor) -> OptimizerState:
        return OptimizerState(first=torch.zeros_like(sigma), second=torch.full_like(sigma, self.epsilon**2))

    @override
    def update(
        self, state: OptimizerState, sigma: Tensor, mean: Tensor, learning_rate: float
    ) -> tuple[OptimizerState, Tensor]:
        assert state.first is not None and state.second is not None
        first = torch.lerp(mean, state.first, self.beta1)
        square = mean.square()
        second = torch.addcmul(state.second, square, torch.sign(state.second - square), value=self.beta2 - 1)
        moved = torch.addcdiv(sigma, first, second.sqrt().add_(self.epsilon), value=-learning_rate)
        return OptimizerState(state.steps + 1, first, second), moved


@dataclass(frozen=True)
class Adagrad(ServerOptimizer):
    """Adagrad (Duchi et al., JMLR 2011) as "FedAdagrad" of Reddi et al. (ICLR 2021, algorithm 2) with beta1 = 0.

    ``v <- v + mean^2; sigma <- sigma - learning_rate mean / (sqrt(v) + epsilon)``, v starting at epsilon^2.
    """

    epsilon: float = 1e-8

    @override
    def init(self, sigma: Tensor) -> OptimizerState:
        return OptimizerState(second=torch.full_like(sigma, self.epsilon**2))

    @override
    def update(
        self, state: OptimizerState, sigma: Tensor, mean: Tensor, learning_rate: float
    ) -> tuple[OptimizerState, Tensor]:
        assert state.second is not None
        second = torch.addcmul(state.second, mean, mean)
        moved = torch.addcdiv(sigma, mean, second.sqrt().add_(self.epsilon), value=-learning_rate)
        return OptimizerState(state.steps + 1, second=second), moved
