"""A run in a process of its own ends with its parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igc.experiments import checkpoint
from igc.experiments.compare import one
from igc.experiments.compare.execute import Executor
from igc.experiments.compare.one import STOPPED, patience
from igc.experiments.contents import CHECKPOINTS
from igc.experiments.recipe import load
from igc.experiments.run import Run
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


def test_the_slower_its_rounds_the_longer_a_run_may_take_to_stop(tmp_path: Path) -> None:
    soon = patience(tmp_path)  # before its first round
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"round": 0, "seconds": 1.0}\n{"round": 1, "seconds": 200.0}\n{"round": 2, "seconds": 70.0}\n{"rou')
    assert patience(tmp_path) > 2 * 200.0 > soon > 30.0
    log.write_text("damaged\n")
    assert patience(tmp_path) == soon


def test_a_run_whose_rounds_are_long_is_not_killed_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to stop than runs have without a round behind them, and has time by the length of its rounds."""
    monkeypatch.setattr(one, "_PATIENCE_SECONDS", 0)
    (tmp_path / "metrics.jsonl").write_text('{"round": 1, "seconds": 30.0}\n')
    code = "import sys, time; sys.stdin.read(); time.sleep(0.5)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    Executor._stop(process, patience(tmp_path))
    assert process.returncode == 0
