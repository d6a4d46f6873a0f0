"""Medians of interleaved repetitions: a machine's memory varies by the hour, so all that is compared takes turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

Clock = Callable[[Callable[[], Any]], float]  # milliseconds of one call
_SWEPT_BYTES: Final = 2**29


def wall_ms(task: Callable[[], Any]) -> float:
    """Milliseconds by the clock of the CPU."""
    begin = time.perf_counter()
    task()
    return 1e3 * (time.perf_counter() - begin)


def gpu_ms(task: Callable[[], Any]) -> float:
    """Milliseconds that the current CUDA device works, by its own events, with a cold cache.

    Half a gigabyte is written first: it sweeps the cache, and keeps the device busy until Python has launched the task, so
    that launching is not timed; of what launches many kernels, most of it is.
    """
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.empty(_SWEPT_BYTES, dtype=torch.uint8, device="cuda").zero_()
    begin.record()
    task()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def clock_of(device: torch.device) -> Clock:
    """What times tasks on a device."""
    return gpu_ms if device.type == "cuda" else wall_ms


def medians_ms(tasks: Mapping[str, Callable[[], Any]], repeats: int, clock: Clock = wall_ms) -> dict[str, float]:
    """Median milliseconds of each task over ``repeats`` rounds, in each of which every task runs once.

    One round that is not counted comes first.
    """
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            milliseconds = clock(task)
            if repeat:
                taken[name].append(milliseconds)
    return {name: statistics.median(times) for name, times in taken.items()}
