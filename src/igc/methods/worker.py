"""What a method may ask of the place where a client's data are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from igc.projection import Projection, Term


class Sketch(NamedTuple):
    """What a worker learned from a client's batch.

    Attributes:
        vector: A^T g, float32 (d,), on the CPU; g is the gradient of the batch's mean loss.
        weight: number of predictions in the batch.
        loss: the batch's mean loss.
    """

    vector: Tensor
    weight: int
    loss: float


class Loss(NamedTuple):
    """A batch's mean loss and the number of predictions in it."""

    value: float
    weight: int


class Worker(ABC):
    """The place where one client's data are, for one round.

    Linear methods move once and sketch once; those that go through a client's data in steps of their own ask for more.
    """

    @abstractmethod
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        """Move the model to theta_0 + the sum of these terms."""

    @abstractmethod
    def sketch(self, projection: Projection) -> Sketch:
        """The gradient of the client's batch at the model's position, projected."""

    def energies(self) -> Sketch:
        """The mean square of the gradient of the client's batch at the model's position, tensor by tensor.

        In place of the sketch's vector there is one number for each tensor of the space, float32. It is not linear in the
        gradient: clients that are computed together are computed one by one for this.
        """
        raise NotImplementedError(f"{type(self).__name__} tells nothing of single tensors")

    def loss(self) -> Loss:
        """The loss of the client's batch at the model's position; no gradient is computed."""
        raise NotImplementedError(f"{type(self).__name__} computes gradients only")

    def batches(self, size: int | None, epochs: int) -> Sequence[Worker]:
        """The client's batch in mini-batches, for local training.

        Args:
            size: examples of a mini-batch, the last of an epoch may have fewer; None: all of them.
            epochs: how many times over; each epoch is shuffled anew, from the run's seed.

        Returns:
            A worker for each mini-batch, in order, epoch by epoch.
        """
        raise NotImplementedError(f"{type(self).__name__} takes one step")
