"""Put token sequences of unequal length into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def pad(sequences: Sequence[list[int]], value: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad on the right to the longest sequence.

    Returns:
        Tokens and mask, both of shape ``(sequences, longest)`` and type int64; the mask is 1 at tokens, 0 at padding.
    """
    longest = max(len(sequence) for sequence in sequences)
    tokens = torch.tensor([sequence + [value] * (longest - len(sequence)) for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return tokens.to(device), mask.to(device)


def by_length(examples: Sequence[T], length: Callable[[T], int], size: int) -> Iterator[list[T]]:
    """Batches of at most ``size``, longest first, so that little is padded and memory runs out at once or never."""
    ordered = sorted(examples, key=length, reverse=True)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
