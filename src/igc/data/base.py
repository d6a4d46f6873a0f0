"""What every data source gives: a federated dataset, client id -> examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray


class LabelledText(NamedTuple):
    """One example of text classification."""

    text: str
    label: int


class LabelledImage(NamedTuple):
    """One example of image classification.

    Attributes:
        pixels: uint8 of shape (channels, height, width), 0 is dark.
        label: from 0.
    """

    pixels: NDArray[np.uint8]
    label: int


class Opening(NamedTuple):
    """A text of which a language model reads the first block only, however long that block is in its own tokens.

    A plain ``str`` is one line of a client's text and is joined with its neighbours; an opening stands alone. It makes
    an evaluation of many long texts affordable, and leaves it to the task how long a block is.
    """

    text: str


# What a client of language modelling holds: lines to be joined, or texts of which the opening is read.
Text = str | Opening

ExampleT = TypeVar("ExampleT")


@dataclass(frozen=True)
class Source(Generic[ExampleT]):
    """What a loader found, before it is dealt out to clients.

    Attributes:
        train: training examples in the order of the source.
        owners: the natural client of each training example, or ``None`` where the source knows no clients.
        evaluation: split name (``"validation"``, ``"test"``, ...) -> examples that no client trains on.
    """

    train: Sequence[ExampleT]
    owners: Sequence[str] | None
    evaluation: Mapping[str, Sequence[ExampleT]]


@dataclass(frozen=True)
class FederatedDataset(Generic[ExampleT]):
    """Raw examples, by client for training and by split for evaluation.

    Examples are as the source has them (text, labels); a task turns them into what its model takes. The order of
    clients and of examples is part of the value: the same source, settings and seed give the same order everywhere.

    Attributes:
        clients: client id -> that client's training examples; none is empty.
        evaluation: split name (``"validation"``, ``"test"``, ...) -> examples that no client trains on.
    """

    clients: Mapping[str, Sequence[ExampleT]]
    evaluation: Mapping[str, Sequence[ExampleT]]
