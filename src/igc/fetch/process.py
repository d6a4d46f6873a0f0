"""Run a downloader as a process of its own, that ends when its parent does, and watch what it has brought so far."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.1


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    report: Callable[[int], None],
    cwd: Path | None = None,
) -> int:
    """Run ``command`` to its end.

    Its standard input is a pipe that closes when this process ends, however that ends: the command has to end then too,
    or it would go on writing into a folder that the next fetch has tidied away.

    Args:
        command: program and arguments.
        folder: where what it writes is watched.
        environment: of the process.
        log: file for its output and its errors.
        report: called several times a second with the size of the largest file below ``folder``.
        cwd: the folder it runs in, if another than ours.

    Returns:
        The exit code.
    """
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, env=environment
        ) as process,
    ):
        try:
            while process.poll() is None:
                report(_largest_file(folder))
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()  # after an interrupt; no effect on a process that has ended
    return process.returncode


def _largest_file(folder: Path) -> int:
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)  # noqa: PTH116, PTH118 - a hot loop
            except FileNotFoundError:
                continue  # it was moved between the two calls
    return largest
