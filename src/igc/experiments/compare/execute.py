"""Runs of a comparison: each in a folder and a process of its own, several at a time, until done or out of time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from igc.errors import RunError
from igc.experiments.atomic import AGAIN, write_atomically
from igc.experiments.compare.one import BROKE_DOWN, FAILED, patience
from igc.experiments.metrics import METRICS
from igc.experiments.recipe import RECIPE, Recipe
from igc.experiments.run import SUMMARY, Run

OUTCOME: Final = "broke-down.json"  # in the folder of a run whose training broke down
_POLL_SECONDS: Final = 0.5


class OutOfTimeError(Exception):
    """Time is up; what was reached is on disk, and the same command goes on from there."""


def threads_for(jobs: int) -> int:
    """How many threads each of so many runs side by side computes with: as ``OMP_NUM_THREADS`` says, or its share.

    Of all cores that this process may use; two runs with a thread for every core wait for each other at every operation.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores // jobs, 1)


def deadline_in(hours: float | None) -> float | None:
    """`time.monotonic` after so many hours; None: never.

    Raises:
        RunError: that is no number of hours.
    """
    if hours is None:
        return None
    if math.isnan(hours):  # which is within all limits
        raise RunError("--max-hours nan: give a number of hours, such as 1.5")
    return time.monotonic() + 3600 * hours


@dataclass(frozen=True)
class Executor:
    """Trains runs, or finds that they are trained.

    Attributes:
        threads: that each run computes with.
        deadline: `time.monotonic` at which to stop; None: never.
        stop: set it to stop earlier, from any thread.
    """

    threads: int
    deadline: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, folder: Path, recipe: Recipe, watch: Callable[[int], None] | None = None) -> dict[str, Any] | None:
        """The summary of a run, trained to its end now if it was not before.

        Args:
            folder: the run's.
            recipe: what to train, if the folder is new.
            watch: told the number of rounds done, now and then.

        Returns:
            What ``summary.json`` holds, or None where training broke down: a loss that is not finite.

        Raises:
            OutOfTimeError: the deadline came first.
            RunError: the run failed, in a way that more of the same will not mend.
        """
        if (folder / SUMMARY).exists() and (known := Run.open(folder).read_summary()) is not None:
            return known
        if (folder / OUTCOME).exists():
            return None
        created = None if (folder / RECIPE).exists() else Run.create(recipe, folder)
        code, errors = self._train(folder, watch)
        if code == 0:
            return Run.open(folder).summary
        if code == BROKE_DOWN:
            write_atomically(folder / OUTCOME, json.dumps({"error": errors}) + "\n", then=AGAIN)
            return None
        if created is not None:
            created.take_back()
        last = errors.splitlines()[-1] if errors else f"exit code {code}"
        raise RunError(f"{folder}: {last}" if code == FAILED else f"{folder}: the process ended early ({last})")

    def _train(self, folder: Path, watch: Callable[[int], None] | None) -> tuple[int, str]:
        if self.late:
            raise OutOfTimeError
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                [sys.executable, "-m", "igc.experiments.compare.one", str(folder)],
                stdin=subprocess.PIPE,
                stderr=errors,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)},
                start_new_session=True,  # Ctrl-C goes to us alone; closing its input passes it on
            ) as process,
        ):
            try:
                while process.poll() is None:
                    if self.late:
                        raise OutOfTimeError
                    if watch is not None:
                        watch(_rounds_done(folder))
                    time.sleep(_POLL_SECONDS)
            except BaseException:
                self._stop(process, patience(folder))
                raise
            errors.seek(0)
            return process.returncode, errors.read().decode(errors="replace").strip()

    @staticmethod
    def _stop(process: subprocess.Popen[bytes], seconds: float) -> None:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()

    @property
    def late(self) -> bool:
        """Whether to stop."""
        return self.stop.is_set() or (self.deadline is not None and time.monotonic() >= self.deadline)


def _rounds_done(folder: Path) -> int:
    try:
        return max((folder / METRICS).read_bytes().count(b"\n") - 1, 0)  # the first line is round 0
    except OSError:
        return 0
