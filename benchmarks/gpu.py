"""The GPU kernel on a real GPU: its tests against the CPU kernel, then its speed at the size of GPT-2 small.

    python benchmarks/gpu.py [--json FILE]

Run it from a checkout, where igc is installed with its development tools and PyTorch with CUDA. Prints one JSON object:
the machine, what the tests said, and for each d what ``igc bench projection --device cuda --json`` prints. Ends with exit
code 1 where a test failed; the figures are then not to be quoted. ``--device cpu --params 100003 --dims 300`` tries the
script itself without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from igc.errors import IgcError
from igc.experiments.assemble import choose_device
from igc.experiments.bench import projection

D = 124_439_808
DIMS = (2**10, 2**14, 2**17, 2**20)
REPOSITORY = Path(__file__).resolve().parents[1]
KERNEL = ("tests/projection/test_triton.py",)
OTHERS = (
    *("-m", "cuda", "tests/contracts/test_projection.py", "tests/test_space.py", "tests/experiments/test_bench.py"),
    "tests/federation/test_on_a_gpu.py",
)


def main() -> None:
    """Test, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--params", type=int, default=D)
    parser.add_argument("--dims", type=int, nargs="+", default=DIMS)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--json", type=Path, help="also write the object to this file")
    asked = parser.parse_args()
    try:
        device = choose_device(asked.device)
    except IgcError as error:
        parser.error(str(error))
    tests = [run_tests(*KERNEL), *([run_tests(*OTHERS)] if device.type == "cuda" else [])]
    rows = []
    for d in asked.dims:
        row = projection.bench(asked.params, d, 0, asked.repeats, False, device, getattr(torch, asked.dtype))
        print(
            f"d = {d:,}: copy {row['copy_gbs']:.0f} GB/s; project {row['project_gbs']:.0f} ({row['project_of_copy']:.2f}"
            f" of a copy); add expanded {row['expand_gbs']:.0f} ({row['expand_of_copy']:.2f})",
            file=sys.stderr,
        )
        rows.append(row)
    text = json.dumps({"machine": machine(device), "tests": tests, "projection": rows}, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    if not all(test["passed"] for test in tests):
        raise SystemExit(1)


def run_tests(*arguments: str) -> dict[str, Any]:
    """What pytest said; its output goes to the screen where a test failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    summary = (done.stdout.strip().splitlines() or ["no output"])[-1]
    print(f"pytest {' '.join(arguments)}: {summary}", file=sys.stderr)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
    return {"arguments": " ".join(arguments), "passed": done.returncode == 0, "summary": summary}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were made on."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "cores": os.cpu_count()}
    if device.type == "cuda":
        import triton  # noqa: PLC0415

        about = torch.cuda.get_device_properties(device)
        found |= {"gpu": about.name, "multiprocessors": about.multi_processor_count, "triton": triton.__version__}
    return found


if __name__ == "__main__":
    main()
