"""The search for the smallest d that reaches a target: bracket it by factors, then halve the bracket on a log scale.

It takes for granted that more dimensions do not do worse; where noise says otherwise (a d that fails above one that
succeeds), the smallest success counts, and the points show it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

_STRIDE: Final = 4  # from one d to the next while no bracket is known


class Bracket(NamedTuple):
    """The smallest d known to reach the target, and the largest below it known not to; None where none is known."""

    fails: int | None
    reaches: int | None


def bracket(reached: Mapping[int, bool]) -> Bracket:
    """What is known so far; ``reached`` is d -> whether the target was reached."""
    reaches = min((d for d, well in reached.items() if well), default=None)
    fails = max((d for d, well in reached.items() if not well and (reaches is None or d < reaches)), default=None)
    return Bracket(fails, reaches)


def next_dim(reached: Mapping[int, bool], start: int, largest: int, resolution: float) -> int | None:
    """The next d to try; None where the answer is known as closely as asked, or there is none up to ``largest``.

    Args:
        reached: d -> whether the target was reached.
        start: the first d.
        largest: D.
        resolution: stop once the bracket's ends are within this factor, above 1.
    """
    fails, reaches = bracket(reached)
    if fails is None and reaches is None:
        return min(start, largest)
    if reaches is None:
        assert fails is not None
        return None if fails >= largest else min(_STRIDE * fails, largest)
    if fails is None:
        return None if reaches == 1 else max(reaches // _STRIDE, 1)
    if reaches - fails <= 1 or reaches <= resolution * fails:
        return None
    return min(max(round(math.sqrt(fails * reaches)), fails + 1), reaches - 1)
