"""Learning-rate schedules: functions of the round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to a peak, then constant, linear or cosine decay; once, or over and over.

    With ``restarts`` and the cosine this is SGDR (Loshchilov and Hutter, ICLR 2017) with cycles of one length.

    Attributes:
        peak: the learning rate after warm-up.
        rounds: length of the training, or of a cycle.
        shape: what follows the warm-up.
        warmup_rounds: round r < warmup_rounds gets (r + 1) / warmup_rounds of the peak.
        final_fraction: share of the peak that decay tends to at round ``rounds``.
        restarts: begin again, warm-up included, every ``rounds`` rounds; else stay at the end.
    """

    peak: float
    rounds: int
    shape: Literal["constant", "linear", "cosine"] = "constant"
    warmup_rounds: int = 0
    final_fraction: float = 0.0
    restarts: bool = False

    def __call__(self, round: int) -> float:
        """The learning rate of a round, counted from 0."""
        if self.restarts:
            round %= self.rounds
        if round < self.warmup_rounds:
            return self.peak * (round + 1) / self.warmup_rounds
        if self.shape == "constant":
            return self.peak
        progress = (round - self.warmup_rounds) / max(self.rounds - self.warmup_rounds, 1)
        progress = min(progress, 1.0)
        remaining = 1 - progress if self.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.peak * (self.final_fraction + (1 - self.final_fraction) * remaining)
