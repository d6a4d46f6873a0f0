"""The worker: the place where a client's data are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from igc.errors import DataError, TrainingError
from igc.methods import Sketch
from igc.projection import Projection, Term, Theta, project_tensors
from igc.projection.philox import Stream, child_seed, permutation
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
        name = int.from_bytes(hashlib.blake2b(client.encode(), digest_size=8).digest(), "little") >> 1
        order = permutation(child_seed(self.batches.seed, round, name), len(examples), Stream.BATCHES)
        return [examples[i] for i in sorted(order[:size])]


@dataclass(frozen=True)
class ClientWorker:
    """One client's side of one round; see `igc.methods.Worker`."""

    place: Workplace
    client: str
    round: int
    batch: list[Any]

    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        """Move the model to theta_0 + the sum of these terms."""
        self.place.theta.move_(current, settled)

    def sketch(self, projection: Projection) -> Sketch:
        """The gradient of the batch's mean loss at the model's position, projected; the gradient itself is freed.

        Raises:
            NonFiniteError: the loss or the gradient is NaN or infinite.
        """
        loss, weight, scale = self._backward()
        gradients: list[Tensor | None] = [parameter.grad for parameter in self.place.parameters]
        scale *= self._clip_factor(gradients, scale)
        sizes = [entry.size for entry in self.place.space.entries]
        vector = (project_tensors(projection, gradients, sizes) * scale).cpu()
        for parameter in self.place.parameters:
            parameter.grad = None
        if not bool(torch.isfinite(vector).all()):
            raise self._not_finite(f"the gradient is not finite (loss {loss:.4g})")
        return Sketch(vector, weight, loss)

    def _backward(self) -> tuple[float, int, float]:
        """Leave gradients in the model: (mean loss, predictions, the factor that makes them the mean loss's gradient)."""
        step = self.place.batches.micro or len(self.batch)
        total, count = 0.0, 0
        for parameter in self.place.parameters:
            parameter.grad = None
        for begin in range(0, len(self.batch), step):
            loss, predictions = self.place.task.loss(self.place.model, self.batch[begin : begin + step])
            # The number of predictions is known at the end only; examples keep half-precision gradients in range.
            torch.autograd.backward(loss / len(self.batch))
            total += float(loss.detach())
            count += predictions
        mean = total / max(count, 1)
        if not math.isfinite(mean):
            raise self._not_finite(f"the loss is {mean}")
        if count == 0:
            raise DataError(f"client '{self.client}' has nothing to predict in its batch")
        return mean, count, len(self.batch) / count

    def _not_finite(self, what: str) -> NonFiniteError:
        return NonFiniteError(
            f"client '{self.client}', round {self.round + 1}: {what}; lower optimizer.learning_rate, or leave such uploads"
            " out with federation.non_finite=skip"
        )

    def _clip_factor(self, gradients: Sequence[Tensor | None], scale: float) -> float:
        if self.place.batches.clip_norm is None:
            return 1.0
        norm = float(nn.utils.get_total_norm([g for g in gradients if g is not None])) * scale
        return min(1.0, self.place.batches.clip_norm / max(norm, torch.finfo(torch.float32).tiny))
