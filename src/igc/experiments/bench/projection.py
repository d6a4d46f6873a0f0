"""`igc bench projection`: project and add-expanded beside their floors, the PyTorch reference and the rivals.

On the CPU or on a GPU. Where there is a GPU, everything lies there and is timed by its events.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from igc.experiments.bench.peak import added_gpu_peak_bytes, added_peak_bytes, in_fresh_process
from igc.experiments.bench.rivals import SKETCH_COLUMNS, SKETCH_ROWS, HashedSketch, power_sgd, square_side, top_k
from igc.experiments.bench.timing import clock_of, medians_ms
from igc.projection import BlockedHadamard, CountSketch, Fastfood, Partition, kernels
from igc.projection.base import next_power_of_two
from igc.projection.kernels import reference

Task = Callable[[], Any]

FWHT_LOGS: Final = range(10, 17)
# Points that fit the second-level cache, so that the transform is timed and not the memory; and as many as a model's.
_FWHT_POINTS: Final = {"": 2**16, "large_": 2**25}
_SLOW_REPEATS: Final = 3


def bench(
    D: int,
    d: int,
    block: int = 0,
    repeats: int = 15,
    every_rival: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """All figures as one JSON-ready object; times are medians in milliseconds.

    ``*_gbs`` are the gigabytes (10^9) a second that a task must move at the least: a copy and add-expanded read and write D
    numbers, project reads them. ``*_of_copy`` is their share of the copy's.

    Args:
        D: parameters.
        d: intrinsic dimension.
        block: n; 0: the projection's default.
        repeats: of what is fast; what takes longer is repeated 3 times at most.
        every_rival: also Fastfood, in blocks and over the next power of two, 18 s each and 7 GB for GPT-2 small.
        device: where gradient, parameters and sigma lie; `igc.experiments.assemble.choose_device` says what is there.
        dtype: of gradient and parameters; the rivals are given float32 all the same.

    Raises:
        ProjectionError: sizes do not fit.
    """
    device, dtype_name = torch.device(device), str(dtype).removeprefix("torch.")
    clock = clock_of(device)
    projection = BlockedHadamard(D=D, d=d, seed=0, block=block)
    generator = torch.Generator().manual_seed(0)
    g, y = (torch.randn(D, generator=generator).to(device, dtype) for _ in range(2))
    x = torch.randn(d, generator=generator).to(device)
    kernel = kernels.kernel_for([g], projection.block)
    fast: dict[str, Task] = {
        "read_ms": g.sum,
        "copy_ms": lambda: y.copy_(g),
        "axpy_ms": lambda: y.add_(g, alpha=1e-9),
        "project_ms": lambda: projection.project(g),
        "expand_ms": lambda: projection.add_expanded_(y, x, alpha=1e-9),
    }
    few = min(repeats, _SLOW_REPEATS)
    partition = Partition(D=D, d=d, seed=0)
    slower: dict[str, Task] = {
        **_references(projection, g, y, x),
        "partition_project_ms": lambda: partition.project(g),
        "partition_expand_ms": lambda: partition.add_expanded_(y, x, alpha=1e-9),
    }
    times = medians_ms(fast, repeats, clock) | medians_ms(slower, few, clock)
    times |= _rivals(g.float(), d, repeats, every_rival)
    on_gpu = device.type == "cuda"
    return {
        "params": D,
        "dim": d,
        "block": projection.block,
        "backend": kernel.name if kernel else "reference",
        "device": device.type,
        **({"gpu": torch.cuda.get_device_name()} if on_gpu else {}),
        "dtype": dtype_name,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        **times,
        **_bandwidths(times, D * g.element_size()),
        "project_over_read": times["project_ms"] / times["read_ms"],
        "expand_over_axpy": times["expand_ms"] / times["axpy_ms"],
        "project_speedup_over_reference": times["reference_project_ms"] / times["project_ms"],
        "expand_speedup_over_reference": times["reference_expand_ms"] / times["expand_ms"],
        "peak_extra_bytes": (
            added_gpu_peak_bytes(lambda: projection.add_expanded_(y, projection.project(g)))
            if on_gpu
            else in_fresh_process(__name__, D=D, d=d, block=projection.block, dtype=dtype_name)
        ),
        **({} if on_gpu else {"fwht": fwht_times(repeats)}),  # the GPU kernel has no transform by itself
    }


def fwht_times(repeats: int) -> dict[str, dict[str, float]]:
    """The transform of 2^16 points, and of 2^25, in rows of n, by n: kernel, reference, how much faster the kernel is."""
    times: dict[str, dict[str, float]] = {}
    for log in FWHT_LOGS:
        times[str(2**log)] = {}
        for size, points in _FWHT_POINTS.items():
            rows = torch.zeros(points >> log, 2**log)  # zeros stay zeros, however often they are transformed in place
            ours, theirs = f"{size}ms", f"{size}reference_ms"
            of = medians_ms({ours: partial(kernels.fwht, rows), theirs: partial(reference.fwht, rows)}, repeats)
            times[str(2**log)] |= {**of, f"{size}speedup_over_reference": of[theirs] / of[ours]}
    return times


def _references(projection: BlockedHadamard, g: Tensor, y: Tensor, x: Tensor) -> dict[str, Task]:
    def by_reference(task: Task) -> Any:
        with kernels.using("reference"):
            return task()

    return {
        "reference_project_ms": lambda: by_reference(lambda: projection.project(g)),
        "reference_expand_ms": lambda: by_reference(lambda: projection.add_expanded_(y, x, alpha=1e-9)),
    }


def _rivals(g: Tensor, d: int, repeats: int, every: bool) -> dict[str, float]:
    clock = clock_of(g.device)
    q = torch.randn(square_side(g.numel()), generator=torch.Generator().manual_seed(1)).to(g.device)
    slow: dict[str, Task] = {"topk_ms": lambda: top_k(g), "powersgd_ms": lambda: power_sgd(g, q)}
    columns = min(SKETCH_COLUMNS, g.numel())
    shifted = CountSketch(D=g.numel(), d=SKETCH_ROWS * columns, seed=0, rows=SKETCH_ROWS)
    slow["count_sketch_shifted_ms"] = lambda: shifted.project(g)
    times = medians_ms(slow, min(repeats, _SLOW_REPEATS), clock)
    times |= medians_ms({"count_sketch_ms": partial(HashedSketch().sketch, g)}, 1, clock)
    if every:
        blocked = Fastfood(D=g.numel(), d=d, seed=0)
        padded = Fastfood(D=g.numel(), d=d, seed=0, block=next_power_of_two(g.numel()))
        fastfoods: dict[str, Task] = {
            "fastfood_blocked_ms": lambda: blocked.project(g),
            "fastfood_ms": lambda: padded.project(g),
        }
        times |= medians_ms(fastfoods, 1, clock)
    return times


def _bandwidths(times: dict[str, float], size: int) -> dict[str, float]:
    """Of tasks on vectors of ``size`` bytes."""
    gbs = {
        "copy_gbs": 2 * size / times["copy_ms"] / 1e6,
        "project_gbs": size / times["project_ms"] / 1e6,
        "expand_gbs": 2 * size / times["expand_ms"] / 1e6,
    }
    shares = {f"{name}_of_copy": gbs[f"{name}_gbs"] / gbs["copy_gbs"] for name in ("project", "expand")}
    return {**gbs, **shares}


def _peak(D: int, d: int, block: int, dtype: str) -> int:
    """Bytes that project and add-expanded add to a process that holds gradient, parameters and sigma."""
    small = BlockedHadamard(D=1000, d=10, seed=0)  # loads what is loaded once
    small.add_expanded_(torch.ones(1000), small.project(torch.ones(1000)))
    projection = BlockedHadamard(D=D, d=d, seed=0, block=block)
    g, y = (torch.ones(D, dtype=getattr(torch, dtype)) for _ in range(2))  # ones, not zeros: every page is touched
    return added_peak_bytes(lambda: projection.add_expanded_(y, projection.project(g)))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_peak(**json.loads(sys.argv[1]))) + "\n")
