"""What every task gives: a model, a loss and a metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

# What a task's `prepare` makes of raw examples; opaque to all but the task.
Example = Any


class Task(ABC):
    """A model with its loss, metric and batching.

    A task holds tokenizers and settings, never a model's weights. Models run without dropout (``eval()`` mode), so that
    a gradient is a function of parameters and examples alone.
    """

    name: ClassVar[str]
    metric_name: ClassVar[str]
    higher_is_better: ClassVar[bool]

    @abstractmethod
    def model(self) -> nn.Module:
        """Build the model at theta_0: the same tensors on every call and every machine, in eval mode, on the CPU."""

    @abstractmethod
    def prepare(self, raw: Sequence[Any]) -> list[Example]:
        """Turn one client's (or one split's) raw examples into what `loss` takes, on the CPU."""

    @abstractmethod
    def loss(self, model: nn.Module, examples: Sequence[Example]) -> tuple[Tensor, int]:
        """Summed loss of a batch and what it was summed over.

        Returns:
            The loss, a scalar with gradient, summed over ``count`` predictions, and ``count`` (examples for
            classification, predicted tokens for language modelling). ``loss / count`` is the batch's mean, so that
            micro-batches add up exactly to the batch.
        """

    @abstractmethod
    def count(self, examples: Sequence[Example]) -> int:
        """The number of predictions in a batch, as `loss` would give it."""

    def length(self, example: Example) -> int:  # noqa: ARG002
        """What an example costs, in any unit; batches of examples of like length waste little on padding."""
        return 1

    @abstractmethod
    def evaluate(self, model: nn.Module, examples: Sequence[Example]) -> dict[str, float]:
        """Metrics on prepared examples: at least ``"loss"`` (the mean) and ``self.metric_name``. Without gradients."""

    @property
    @abstractmethod
    def reads_merged(self) -> str:
        """A line of Python that reads what `save_merged` wrote into the folder ``path``."""

    @abstractmethod
    def save_merged(self, model: nn.Module, folder: Path) -> None:
        """Write the model, with config and tokenizer, in Hugging Face format."""
