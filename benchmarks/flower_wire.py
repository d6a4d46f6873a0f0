"""What Flower adds on the wire: ``python benchmarks/flower_wire.py``; needs the extra ``flower``.

A SuperLink and one SuperNode on loopback, with a proxy between them that counts bytes; messages of several lengths go to
the node and come back. Prints a line for each message with its bytes, and the CPU seconds of the SuperNode and of the
SuperLink, each with all that it started; first, what an idle node costs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

LENGTHS = (1_000, 65_620, 1_000_000)
ROUNDS = 3
IDLE_S = 60.0

APP = """
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from igc.deployment.flower.wire import Answer, Order, pack_answers, pack_order, unpack_order

server = ServerApp()
client = ClientApp()

@client.train()
def train(message, context):
    order = unpack_order(message.content)
    answers = {name: Answer(data) for name, data in zip(order.clients, order.payloads)}
    return Message(pack_answers(answers), reply_to=message)

@server.main()
def main(grid, context):
    while not list(grid.get_node_ids()):
        time.sleep(1)
    (node,) = grid.get_node_ids()
    mark = Path(context.run_config["marks"])
    for length in json.loads(context.run_config["lengths"]):
        for number in range(int(context.run_config["rounds"]) + 1):
            payload = bytes((i * 7 + number) % 251 for i in range(length))
            order = Order("session", number, ("client-0",), (payload,))
            list(grid.send_and_receive([Message(pack_order(order), node, "train", ttl=600)], timeout=300))
            time.sleep(4)  # until the node has been told that its reply came
            with mark.open("a") as file:
                file.write(f"{length} {number}\\n")
"""


class Proxy:
    """Counts the bytes of connections that it passes on."""

    def __init__(self, target: int) -> None:
        self.up = self.down = self.connections = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # the target is not up: say so to who called, and go on
                near.close()
                continue
            self.connections += 1
            threading.Thread(target=self._pass_on, args=(near, far, "up"), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, "down"), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while data := source.recv(65536):
                setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()


def main() -> None:
    """Measure, and print JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port, nodes_own = _free_port(), _free_port()
        marks = folder / "marks"
        marks.touch()
        _write_app(folder / "app", port, marks)
        proxy = Proxy(port)
        started: list[subprocess.Popen[bytes]] = []
        try:
            link = _start(
                folder, f"flower-superlink --insecure --port {port} --disable-runtime-dependency-installation"
            )
            started.append(link)
            _wait_for(port, link)
            node = _start(folder, f"flower-supernode --insecure --superlink 127.0.0.1:{proxy.port} --port {nodes_own}")
            started.append(node)
            _wait_until(lambda: proxy.down > 0, "the SuperNode to reach the SuperLink", node)
            time.sleep(10)  # past its registration
            before = _Figures.of(proxy, node, link)
            time.sleep(IDLE_S)
            print(json.dumps({"idle_s": IDLE_S, **_Figures.of(proxy, node, link).since(before)}), flush=True)
            if code := _start(folder, "flwr run . here").wait():
                raise SystemExit(f"flwr run ended with code {code}")
            for seen in range(len(LENGTHS) * (ROUNDS + 1)):
                before = _Figures.of(proxy, node, link)
                _wait_until(lambda seen=seen: len(_lines(marks)) > seen, f"message {seen}", node)  # type: ignore[misc]
                length, number = map(int, _lines(marks)[seen].split())
                figures = _Figures.of(proxy, node, link).since(before)
                print(json.dumps({"payload": length, "message": number, **figures}), flush=True)
        finally:
            for process in reversed(started):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            for process in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)


@dataclass(frozen=True)
class _Figures:
    """Bytes between the node and its SuperLink so far, and CPU seconds of each with all that it started."""

    up: int
    down: int
    node_cpu_s: float
    link_cpu_s: float

    @classmethod
    def of(cls, proxy: Proxy, node: subprocess.Popen[bytes], link: subprocess.Popen[bytes]) -> _Figures:
        return cls(proxy.up, proxy.down, _cpu(node.pid), _cpu(link.pid))

    def since(self, before: _Figures) -> dict[str, float]:
        now, then = dataclasses.asdict(self), dataclasses.asdict(before)
        return {name: round(now[name] - then[name], 2) for name in now}


def _cpu(pid: int) -> float:
    """User and system seconds of a process, of what it waited for, and of what runs below it."""
    total = 0.0
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _lines(marks: Path) -> list[str]:
    return [line for line in marks.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    def open_() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    _wait_until(open_, f"port {port}", process)


def _wait_until(done: Callable[[], bool], what: str, process: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        if process.poll() is not None:
            raise SystemExit(f"a process ended with code {process.returncode} while waiting for {what}")
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


def _start(folder: Path, command: str) -> subprocess.Popen[bytes]:
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    return subprocess.Popen(
        command.split(),
        cwd=folder / "app",
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _write_app(folder: Path, port: int, marks: Path) -> None:
    (folder / "wire").mkdir(parents=True)
    (folder / "wire" / "__init__.py").touch()
    (folder / "wire" / "app.py").write_text(APP)
    config = f'marks = "{marks}"\nlengths = "{list(LENGTHS)}"\nrounds = {ROUNDS}\n'
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "wire"\nversion = "1.0.0"\ndescription = "w"\nlicense = "Apache-2.0"\n'
        '[tool.flwr.app]\npublisher = "igc"\n[tool.flwr.app.components]\nserverapp = "wire.app:server"\n'
        f'clientapp = "wire.app:client"\n[tool.flwr.app.config]\n{config}'
    )
    home = folder.parent / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )


if __name__ == "__main__":
    main()
