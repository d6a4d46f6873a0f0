"""Many encodings of one tensor: a codec's noise is a function of the tensor, so that each copy differs by a trifle."""

from __future__ import annotations

import torch
from torch import Tensor

from igc.codecs import Codec


def errors(codec: Codec, value: Tensor, count: int) -> Tensor:
    """Decoded less encoded, (count, n) float64, for copies of ``value`` (n,) whose last number differs in its last bits."""
    found = []
    for k in range(count):
        copy = value.clone()
        copy[-1] += (k + 1) * 1e-6
        found.append(codec.decode(codec.encode(copy), tuple(copy.shape)).double() - copy.double())
    return torch.stack(found)


def standard_errors(samples: Tensor) -> Tensor:
    """How many standard errors the mean of samples (count, ...) is away from 0."""
    error: Tensor = samples.std(0) / len(samples) ** 0.5
    return samples.mean(0) / error


def normalised_error(codec: Codec, value: Tensor) -> float:
    """||decoded - encoded||^2 / ||encoded||^2."""
    found = codec.decode(codec.encode(value), tuple(value.shape)).double()
    return float((found - value.double()).square().sum() / value.double().square().sum())
