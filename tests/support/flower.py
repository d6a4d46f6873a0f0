"""A federation of real processes on loopback: SuperLink, SuperNodes, ``flwr run``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from igc.deployment.flower.project import write_project
from igc.deployment.flower.settings import RunSettings
from igc.experiments.recipe import Recipe

Process = subprocess.Popen[bytes]


class Deployment:
    """Processes that all end with it.

    Args:
        folder: a new one.
        recipe: what to train.
    """

    def __init__(self, folder: Path, recipe: Recipe, **settings: Any) -> None:
        self.folder = folder
        self.run_folder = folder / "run"
        self.port = free_port()
        self.project = folder / "federation"
        config = RunSettings(out=str(self.run_folder), threads=1, **settings)
        write_project(self.project, recipe, config, nodes=2, port=self.port)
        self.home = self.project / ".flwr"
        self._processes: list[Process] = []
        self._logs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            end(process, signal.SIGTERM)
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            end(process, signal.SIGKILL)

    def superlink(self, *arguments: str) -> Process:
        wanted = arguments or ("--insecure",)
        command = ["flower-superlink", *wanted, "--port", str(self.port), "--disable-runtime-dependency-installation"]
        process = self.start("superlink", *command)
        wait_until(lambda: listens(self.port), 60, "the SuperLink does not listen")
        return process

    def supernode(
        self, config: str, *arguments: str, environment: Mapping[str, str] | None = None, through: int | None = None
    ) -> Process:
        """Start a SuperNode; ``through``: a port in place of the SuperLink's."""
        wanted = arguments or ("--insecure",)
        link = f"127.0.0.1:{through or self.port}"
        command = ["flower-supernode", *wanted, "--superlink", link, "--port", str(free_port())]
        return self.start("supernode", *command, "--node-config", config, environment=environment)

    def supernodes(self, count: int = 2) -> list[Process]:
        return [self.supernode(f"partition-id={i} num-partitions={count}") for i in range(count)]

    def run(self, *config: str) -> Process:
        chosen = [part for setting in config for part in ("-c", setting)]
        return self.start("run", "flwr", "run", ".", "loopback", "--stream", *chosen)

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> Process:
        self._logs += 1
        path = self.folder / f"{self._logs:02}-{name}.log"
        scripts = Path(sys.executable).parent
        variables = {
            **os.environ,
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "NO_COLOR": "1",
            **(environment or {}),
        }
        with path.open("wb") as log:
            process = subprocess.Popen(
                [str(scripts / command[0]), *command[1:]],
                cwd=self.project,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process.log = path  # type: ignore[attr-defined]
        self._processes.append(process)
        return process

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What the server told, so far."""
        path = self.run_folder / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [event for event in found if kind in (None, event["event"])]

    def wait_for_round(self, number: int, seconds: float = 120) -> None:
        wait_until(lambda: any(e["round"] >= number for e in self.events("round")), seconds, f"no round {number}")

    def finish(self, process: Process, seconds: float = 240) -> None:
        """Wait for a ``flwr run``."""
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not done in {seconds} s:\n{text(process)[-4000:]}") from None
        assert self.events("finished"), text(process)[-4000:]


def text(process: Process) -> str:
    """What a process wrote so far."""
    path: Path = process.log  # type: ignore[attr-defined]
    return path.read_text(errors="replace")


def end(process: Process, how: signal.Signals) -> None:
    """Signal a process and all that it started."""
    for number in [process.pid, *(number for number, _ in descendants(process))]:
        with suppress(ProcessLookupError):
            os.kill(number, how)


def kill(process: Process) -> None:
    """As a power cut would."""
    end(process, signal.SIGKILL)
    process.wait()


def children(process: Process, name: str) -> list[int]:
    """Processes of this name among all that a process started."""
    return [number for number, command in descendants(process) if name in command]


def descendants(process: Process) -> list[tuple[int, str]]:
    """Numbers and commands of all that a process started, and that they started."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()]
    family, found = {process.pid}, list[tuple[int, str]]()
    for number, parent, command in sorted((int(pid), int(ppid), command) for pid, ppid, command in rows):
        if parent in family:  # numbers rise from parents to children, on a machine that has not run for long
            family.add(number)
            found.append((number, command))
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    end_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_at, otherwise
        time.sleep(0.2)
