"""What Flower adds on the wire: ``python benchmarks/flower_wire.py``; needs the extra ``flower``.

A SuperLink and one SuperNode on loopback, with a proxy between them that counts bytes; messages of several lengths go to
the node and come back. Prints a line for each length, and what an idle node costs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

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

server, client = ServerApp(), ClientApp()

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
            far = socket.create_connection(("127.0.0.1", self._target))
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
    """Measure, and print JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        marks = folder / "marks"
        marks.touch()
        _write_app(folder / "app", port, marks)
        proxy = Proxy(port)
        started: list[subprocess.Popen[bytes]] = []
        try:
            started.append(
                _start(folder, f"flower-superlink --insecure --port {port} --disable-runtime-dependency-installation")
            )
            time.sleep(8)
            started.append(_start(folder, f"flower-supernode --insecure --superlink 127.0.0.1:{proxy.port} --port 0"))
            time.sleep(8)
            up, down = proxy.up, proxy.down
            time.sleep(IDLE_S)
            print(json.dumps({"idle": IDLE_S, "up": proxy.up - up, "down": proxy.down - down}), flush=True)
            started.append(_start(folder, "flwr run . here"))
            seen, before = 0, (proxy.up, proxy.down)
            while seen < len(LENGTHS) * (ROUNDS + 1):
                time.sleep(0.1)
                lines = marks.read_text().splitlines()
                for line in lines[seen:]:
                    length, number = map(int, line.split())
                    now = (proxy.up, proxy.down)
                    figures = {
                        "payload": length,
                        "message": number,
                        "up": now[0] - before[0],
                        "down": now[1] - before[1],
                    }
                    print(json.dumps(figures), flush=True)
                    before = now
                seen = len(lines)
        finally:
            for process in reversed(started):
                os.killpg(process.pid, 15)
            time.sleep(3)


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
