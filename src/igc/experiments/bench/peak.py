"""Peak memory, measured in fresh processes: what a process has once held shows in its peak for ever."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch

from igc.errors import RunError

FAILED: Final = 2  # exit code of a process whose last line says all that the user has to know
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def added_peak_bytes(call: Callable[[], Any]) -> int:
    """Bytes by which a call raises this process's peak of resident memory above what was resident before."""
    with suppress(OSError):  # where the peak cannot be reset, what was touched before must be most of it
        _RESET.write_text("5")
    before = _peak_bytes()
    call()
    return max(_peak_bytes() - before, 0)


def added_gpu_peak_bytes(call: Callable[[], Any]) -> int:
    """Bytes that PyTorch's allocator hands out on the current CUDA device during a call, at most, beyond what it had."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def in_fresh_process(module: str, **arguments: Any) -> Any:
    """The value that ``python -m module ARGUMENTS``, given as one JSON object, prints as its last line, in JSON.

    Raises:
        RunError: the process failed.
    """
    command = [sys.executable, "-m", module, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message; killed for want of memory?"])[-1]
        if done.returncode == FAILED:
            raise RunError(why)
        raise RunError(f"measuring memory failed with exit code {done.returncode}: {why}")
    return json.loads(done.stdout.splitlines()[-1])


def _peak_bytes() -> int:
    if _STATUS.exists():  # ru_maxrss would start at the parent's
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
