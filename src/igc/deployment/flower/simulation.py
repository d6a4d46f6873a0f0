"""Flower's simulation for an engine: many clients over the processes, or machines, of a Ray cluster."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, final

from flwr.app import Context, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from igc.deployment.events import EventLog, this_process
from igc.deployment.flower.client_app import client_app
from igc.deployment.flower.server_app import told, train
from igc.deployment.flower.settings import RunSettings
from igc.experiments.progress import Observer
from igc.experiments.run import Run

NODES: Final = 64  # virtual ones, at most: each is asked who its clients are, and carries what they remember
POLL_S: Final = 0.02
SETTINGS: Final = RunSettings(deadline=1e9)  # nobody is late in a simulation: a slow round is a slow round


def simulate(run: Run, observer: Observer) -> dict[str, Any]:
    """Train, or go on with, a run in Flower's simulation; returns its summary.

    Each process computes with one PyTorch thread. Payloads and states are those of a real federation, bit for bit.

    Raises:
        IgcError: a subclass says what went wrong; the newest checkpoint is whole.
    """
    outcome: dict[str, Any] = {}
    failure: list[BaseException] = []
    stop = threading.Event()
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        log = EventLog(stream=None)  # the observer tells what a person wants to know
        log.write_to(run.folder)
        try:
            with told(log):
                log.tell("server", **this_process())
                outcome.update(train(run, _Interruptible(grid, stop), SETTINGS, observer, log.tell, POLL_S))
                log.tell("finished", **outcome)
        except BaseException as error:
            failure.append(error)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    processes = os.cpu_count() or 1
    # A process a core, each with a model of its own: more than a GPU beside them has room for.
    clients = client_app(run.recipe.model_copy(update={"device": "cpu"}), RunSettings(threads=1))
    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0.0}
    init: dict[str, Any] = {"num_cpus": processes, "include_dashboard": False, "log_to_driver": False}
    try:
        run_simulation(app, clients, NODES, backend_config={"client_resources": resources, "init_args": init})
    except KeyboardInterrupt:
        stop.set()
        raise
    if failure:
        raise failure[0]
    return outcome


@final
@dataclass(frozen=True)
class _Interruptible:
    """A grid for the server's thread, which Ctrl-C does not reach by itself."""

    grid: Grid
    stop: threading.Event

    def get_nodes(self) -> Iterable[NodeInfo]:
        self._check()
        return self.grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._check()
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self._check()
        return self.grid.pull_messages(message_ids)

    def _check(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt
