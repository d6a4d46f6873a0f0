"""The command line, run in this process or as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from igc import cli


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def igc(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """``igc ARGUMENTS`` in this process."""
    monkeypatch.setattr(sys, "argv", ["igc", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    out, err = capsys.readouterr()
    return Outcome(code, out, err)


def start(arguments: list[str], cwd: Path, first: str = "") -> subprocess.Popen[bytes]:
    """``igc ARGUMENTS`` as a process of its own, to be killed; ``first`` is Python to run before anything else."""
    ctrl_c = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # ignored in the background
    code = f"{ctrl_c}{first}import torch; torch.set_num_threads(1); from igc.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
