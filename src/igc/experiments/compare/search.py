"""Tuning a learning rate: the same number of trials for everybody, spent by climbing a ladder of rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

STEP: Final = 10**0.5  # from one rung of the ladder to the next


def rung(start: float, steps: int) -> float:
    """The rate so many rungs above ``start``, to three digits, so that recipes and folders can be read."""
    return float(f"{start * STEP**steps:.3g}")


def next_rung(scores: Mapping[int, float], trials: int, *, higher_is_better: bool) -> int | None:
    """The next rung to try: next to the best so far, upwards first.

    Climbing from a start that is off by a factor of ten still reaches the top, given trials; a method is never worse off
    for a bad guess of ours than by the trials that it took.

    Args:
        scores: rung -> validation metric, NaN where training broke down.
        trials: how many rungs may be tried.
        higher_is_better: of the metric.

    Returns:
        None where trials are used up or both neighbours of the best are known.
    """
    if not scores:
        return 0
    if len(scores) >= trials:
        return None
    if all(math.isnan(score) for score in scores.values()):
        return min(scores) - 1  # training that breaks down asks for smaller steps
    best = best_rung(scores, higher_is_better=higher_is_better)
    return next((near for near in (best + 1, best - 1) if near not in scores), None)


def best_rung(scores: Mapping[int, float], *, higher_is_better: bool) -> int:
    """The rung of the best score; of equal ones the lowest, NaN last."""
    sign = -1 if higher_is_better else 1
    return min(sorted(scores), key=lambda r: math.inf if math.isnan(scores[r]) else sign * scores[r])
