"""Medians of interleaved repetitions: a machine's memory varies by the hour, so all that is compared takes turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def medians_ms(tasks: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each task over ``repeats`` rounds, in each of which every task runs once.

    One round that is not counted comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            begin = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()}
