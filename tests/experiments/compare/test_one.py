"""A run in a process of its own ends with its parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igc.experiments import checkpoint
from igc.experiments.compare.one import STOPPED
from igc.experiments.recipe import load
from igc.experiments.run import CHECKPOINTS, Run
from support.tiny import write_recipe


def test_it_stops_with_a_checkpoint_when_its_input_closes(tmp_path: Path) -> None:
    """Even where interrupts are ignored, as a shell has it for what it runs in the background."""
    recipe = load(write_recipe(tmp_path / "tiny", federation={"rounds": 5_000}, checkpoint={"every": 10_000}))
    folder = Run.create(recipe, tmp_path / "run").folder
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = [sys.executable, "-m", "igc.experiments.compare.one", str(folder)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    log = folder / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    _, errors = process.communicate(timeout=120)  # closes its input
    assert process.returncode == STOPPED, errors.decode()
    assert checkpoint.load_latest(folder / CHECKPOINTS, pytest.fail)[0] >= 2
