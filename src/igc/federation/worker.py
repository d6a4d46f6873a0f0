"""The worker: the place where a client's data are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from igc.errors import DataError, TrainingError
from igc.finite import all_finite
from igc.methods import Loss, Sketch, Worker
from igc.projection import Projection, Term, Theta, project_as_born, project_tensors
from igc.projection.philox import Stream, child_seed, permutation
from igc.projection.streaming import absorbed
from igc.space import ParameterSpace
from igc.tasks.base import Example, Task


class NonFiniteError(TrainingError):
    """A client's loss or gradient is NaN or infinite."""


@dataclass(frozen=True)
class BatchSettings:
    """How a client's examples become a gradient.

    Attributes:
        size: examples that a client draws each time, without replacement; None takes all it has.
        micro: examples that go through the model at once; None: the whole batch. Gradients accumulate to the same mean.
        clip_norm: each client's gradient is scaled down to at most this norm in R^D; None: as it is.
        seed: of the draws.
    """

    size: int | None
    micro: int | None
    clip_norm: float | None
    seed: int


class Workplace:
    """One model, and the examples of all clients that live here.

    In simulation all clients share it; on a device there is one client. The model is moved, never copied.
    """

    def __init__(
        self,
        model: nn.Module,
        space: ParameterSpace,
        task: Task,
        clients: Mapping[str, Sequence[Example]],
        batches: BatchSettings,
    ) -> None:
        self.model = model
        self.space = space
        self.task = task
        self.batches = batches
        self.parameters = space.parameters(model)
        self.theta = Theta(self.parameters)
        self._clients = clients
        # What is not trained needs no gradient, and backward need not compute one.
        trained = {id(parameter) for parameter in self.parameters}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)

    def worker(self, client: str, round: int) -> ClientWorker:
        """The worker of one client in one round.

        Raises:
            DataError: the client is not here, or has no examples.
        """
        examples = self._clients.get(client)
        if examples is None:
            raise DataError(f"client '{client}' has no data here")
        if not examples:
            raise DataError(f"client '{client}' has no examples")
        return ClientWorker(self, client, round, self._draw(client, round, examples))

    def _draw(self, client: str, round: int, examples: Sequence[Example]) -> list[Example]:
        size = self.batches.size
        if size is None or size >= len(examples):
            return list(examples)
        order = self.shuffled(client, round, len(examples))
        return [examples[i] for i in sorted(order[:size])]

    def shuffled(self, client: str, round: int, count: int, *path: int) -> list[int]:
        """0, ..., count - 1 in an order that client, round and ``path`` determine."""
        name = int.from_bytes(hashlib.blake2b(client.encode(), digest_size=8).digest(), "little") >> 1
        return permutation(child_seed(self.batches.seed, round, name, *path), count, Stream.BATCHES)


@dataclass(frozen=True)
class ClientWorker(Worker):
    """One client's side of one round; see `igc.methods.Worker`.

    Attributes:
        micro: examples that go through the model at once; None: as `BatchSettings` says.
    """

    place: Workplace
    client: str
    round: int
    batch: list[Any]
    micro: int | None = None

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        """Move the model to theta_0 + the sum of these terms."""
        self.place.theta.move_(current, settled)

    @override
    def sketch(self, projection: Projection) -> Sketch:
        """The gradient of the batch's mean loss at the model's position, projected; the gradient itself is freed.

        Raises:
            NonFiniteError: the loss or the gradient is NaN or infinite.
        """
        for parameter in self.place.parameters:
            parameter.grad = None
        clip = self.place.batches.clip_norm
        if clip is not None and self._step < len(self.batch):
            vector, loss, weight = self._clipped_whole(projection, clip)
        else:
            vector, loss, weight = self._streamed(projection, clip)
        if not all_finite(vector):
            raise self._not_finite(f"the gradient is not finite (loss {loss:.4g})")
        return Sketch(vector, weight, loss)

    @override
    def energies(self) -> Sketch:
        """The mean square of the gradient of the batch's mean loss at the model's position, tensor by tensor.

        Raises:
            NonFiniteError: the loss or the gradient is NaN or infinite.
        """
        parameters = self.place.parameters
        for parameter in parameters:
            parameter.grad = None
        clip = self.place.batches.clip_norm
        squares = torch.zeros(len(parameters), dtype=torch.float64)

        def absorb(index: int, gradient: Tensor) -> None:
            squares[index] = _square(gradient)

        if self._step < len(self.batch):  # the square of a sum is known only once all of it is there
            loss, weight, scale = self._backward()
            for index, parameter in enumerate(parameters):
                if parameter.grad is not None:
                    absorb(index, parameter.grad)
                    parameter.grad = None
        else:
            with absorbed(parameters, absorb):
                loss, weight, scale = self._backward()
        if clip is not None:
            scale *= self._clip_factor(squares.sum().sqrt(), scale, clip)
        sizes = torch.tensor([max(parameter.numel(), 1) for parameter in parameters])
        vector = (squares / sizes * scale**2).float()
        if not all_finite(vector):
            raise self._not_finite(f"the gradient is not finite (loss {loss:.4g})")
        return Sketch(vector, weight, loss)

    @override
    def loss(self) -> Loss:
        """The loss of the batch at the model's position.

        Raises:
            NonFiniteError: it is NaN or infinite.
        """
        total, count = 0.0, 0
        with torch.no_grad():
            for examples in self._micro_batches():
                loss, predictions = self.place.task.loss(self.place.model, examples)
                total += float(loss)
                count += predictions
        return Loss(self._mean(total, count), count)

    @override
    def batches(self, size: int | None, epochs: int) -> list[ClientWorker]:
        """The batch in mini-batches; see `igc.methods.Worker.batches`."""
        if size is None or size >= len(self.batch):
            return [self] * epochs
        orders = [self.place.shuffled(self.client, self.round, len(self.batch), epoch) for epoch in range(epochs)]
        cuts = [order[begin : begin + size] for order in orders for begin in range(0, len(order), size)]
        return [replace(self, batch=[self.batch[i] for i in sorted(cut)]) for cut in cuts]

    @property
    def _step(self) -> int:
        """Examples of one forward and backward pass."""
        return self.micro or self.place.batches.micro or len(self.batch)

    def _streamed(self, projection: Projection, clip: float | None) -> tuple[Tensor, float, int]:
        """Project each gradient as backward finishes it: no more than one tensor's is ever held."""
        squares: list[Tensor] = []
        watch = None if clip is None else lambda gradient: squares.append(_square(gradient))
        with project_as_born(projection, self.place.parameters, watch) as vector:
            loss, weight, scale = self._backward()
        if clip is not None:
            scale *= self._clip_factor(torch.stack(squares).sum().sqrt(), scale, clip)
        return vector.mul_(scale).cpu(), loss, weight

    def _clipped_whole(self, projection: Projection, clip: float) -> tuple[Tensor, float, int]:
        """The norm of a sum of micro-batches is known only once all of it is there: hold it, then project."""
        loss, weight, scale = self._backward()
        gradients: list[Tensor | None] = [parameter.grad for parameter in self.place.parameters]
        norm = torch.stack([_square(g) for g in gradients if g is not None]).sum().sqrt()
        sizes = [entry.size for entry in self.place.space.entries]
        vector = project_tensors(projection, gradients, sizes) * (scale * self._clip_factor(norm, scale, clip))
        for parameter in self.place.parameters:
            parameter.grad = None
        return vector.cpu(), loss, weight

    def _backward(self) -> tuple[float, int, float]:
        """Run backward: (mean loss, predictions, the factor that makes the gradients those of the mean loss)."""
        total, count = 0.0, 0
        for examples in self._micro_batches():
            loss, predictions = self.place.task.loss(self.place.model, examples)
            # The number of predictions is known at the end only; examples keep half-precision gradients in range.
            torch.autograd.backward(loss / len(self.batch))
            total += float(loss.detach())
            count += predictions
        return self._mean(total, count), count, len(self.batch) / count

    def _micro_batches(self) -> Iterator[list[Any]]:
        step = self._step
        for begin in range(0, len(self.batch), step):
            yield self.batch[begin : begin + step]

    def _mean(self, total: float, count: int) -> float:
        if not math.isfinite(total):
            raise self._not_finite(f"the loss is {total}")
        if count == 0:
            raise DataError(f"client '{self.client}' has nothing to predict in its batch")
        return total / count

    def _clip_factor(self, norm: Tensor, scale: float, clip: float) -> float:
        """What brings a gradient of ``scale`` times this norm down to the norm ``clip``, if it is above."""
        length = float(norm) * scale
        if not math.isfinite(length):  # also of finite numbers too large to be squared: clipping would leave nothing
            raise self._not_finite(f"the gradient's norm is {length}")
        return min(1.0, clip / max(length, torch.finfo(torch.float32).tiny))

    def _not_finite(self, what: str) -> NonFiniteError:
        return NonFiniteError(
            f"client '{self.client}', round {self.round + 1}: {what}; lower optimizer.learning_rate, or leave such uploads"
            " out with federation.non_finite=skip"
        )


def _square(gradient: Tensor) -> Tensor:
    return gradient.float().square().sum()  # in float32: half precision would lose, or overflow, the sum
