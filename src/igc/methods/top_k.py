"""The k largest of many numbers, the same on every machine."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

_STRIDE: Final = 64
_WORTH_A_GUESS: Final = 2**16


def largest(x: Tensor, k: int) -> Tensor:
    """Where the k numbers of largest magnitude are; of equal ones the first.

    Args:
        x: float32 (n,), on the CPU; NaN counts as infinite.
        k: from 1 to n.

    Returns:
        int64 (k,), strictly increasing.
    """
    if k == x.numel():
        return torch.arange(k)
    magnitude = x.abs().numpy()
    # A guess at the threshold from one number in 64 leaves few candidates, as a rule; where it is too high, all are.
    candidates = None
    if magnitude.size >= _WORTH_A_GUESS:
        sample = magnitude[::_STRIDE]
        rank = min(int(1.5 * k / _STRIDE) + 16, sample.size)
        guess = np.partition(sample, sample.size - rank)[sample.size - rank]
        candidates = np.flatnonzero(~(magnitude < guess))  # NaN, too
        if candidates.size < k:
            candidates = None
    values = np.nan_to_num(magnitude if candidates is None else magnitude[candidates], nan=np.inf, posinf=np.inf)
    threshold = np.partition(values, values.size - k)[values.size - k]
    above = np.flatnonzero(values > threshold)
    level = np.flatnonzero(values == threshold)[: k - above.size]
    chosen = np.sort(np.concatenate([above, level]))
    return torch.from_numpy(chosen if candidates is None else candidates[chosen])
