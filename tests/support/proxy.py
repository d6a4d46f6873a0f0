"""What lies between a SuperNode and its SuperLink: bytes pass, are read, and may be changed on their way up."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Change = Callable[[bytes], bytes]


class Proxy:
    """Passes connections on to a port of this machine.

    Args:
        target: the port.
        change: what becomes of each piece on its way from the node.
    """

    def __init__(self, target: int, change: Change = lambda piece: piece) -> None:
        self.change = change
        self.up = bytearray()  # all that came from nodes
        self._target = target
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in [self._listener, *self._sockets]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def paths(self) -> set[str]:
        """What was asked for, where it was to be read."""
        return {path.decode() for path in re.findall(rb"(?:GET|POST|PUT) (/\S*) HTTP/1", bytes(self.up))}

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                node, _ = self._listener.accept()
                link = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [node, link]
                threading.Thread(target=self._pump, args=(node, link, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(link, node, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 20):
                if up:
                    self.up += piece
                    piece = self.change(piece)
                sink.sendall(piece)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
