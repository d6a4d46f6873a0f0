"""The kernel's transform against FFHT, the fastest public code for it on CPUs that we found.

    python benchmarks/ffht.py FOLDER [--json FILE]

FOLDER is a checkout of FALCONN-LIB/FFHT, whose ``fht.c`` is built with ``gcc -O3 -march=native`` into a temporary folder;
none of it is kept. Both transform the same zeros in place, again and again, called in a loop of C on one thread, in turns;
medians.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from igc.projection.kernels import native

LOGS = (*range(10, 17), 18, 20)
POINTS = 2**22  # transformed between two looks at the clock
REPEATS = 31

# The loops are in C: a call from Python takes longer than a transform of 1,024 points.
LOOPS: Final = """
#include <stdint.h>
int fht_float(float *x, int log);
void theirs(float *x, int log, long calls) { for (long i = 0; i < calls; ++i) fht_float(x, log); }
typedef int (*Fwht)(const void *, float *, int64_t, int64_t, int);
void ours(Fwht fwht, const void *kernel, float *x, int log, long calls) {
  for (long i = 0; i < calls; ++i) fwht(kernel, x, (int64_t)1 << log, 1, 1);
}
"""

Loop = Callable[[torch.Tensor, int, int], None]  # points, log of their number, calls


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        loops = build(asked.folder.resolve(), Path(folder))
        for log in LOGS:
            row = compare(loops, log)
            rows.append({"n": 2**log, **row})
            print(f"2^{log}: igc {row['igc_us']:.3f} us, FFHT {row['ffht_us']:.3f} us, ratio {row['ratio']:.2f}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def build(source: Path, folder: Path) -> dict[str, Loop]:
    """Name -> a loop of transforms."""
    kernel = native.load()
    if kernel is None:
        raise SystemExit("the native kernel was not built here; see igc doctor")
    (folder / "loops.c").write_text(LOOPS)
    library = folder / "loops.so"
    sources = [str(source / "fht.c"), str(source / "fast_copy.c"), str(folder / "loops.c")]
    subprocess.run(["gcc", "-O3", "-march=native", "-shared", "-fPIC", "-w", "-o", str(library), *sources], check=True)
    loops = ctypes.CDLL(str(library))
    loops.theirs.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long]
    loops.ours.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_long]
    fwht = ctypes.cast(kernel._library.igc_fwht, ctypes.c_void_p)
    return {
        "igc_us": lambda x, log, calls: loops.ours(fwht, kernel._build, x.data_ptr(), log, calls),
        "ffht_us": lambda x, log, calls: loops.theirs(x.data_ptr(), log, calls),
    }


def compare(loops: dict[str, Loop], log: int) -> dict[str, float]:
    """Microseconds of one transform, and how many times longer FFHT takes."""
    x = torch.zeros(2**log)
    calls = max(POINTS >> log, 1)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(REPEATS):
        for name, loop in loops.items():
            began = time.perf_counter()
            loop(x, log, calls)
            times[name].append(1e6 * (time.perf_counter() - began) / calls)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": medians["ffht_us"] / medians["igc_us"]}


if __name__ == "__main__":
    main()
