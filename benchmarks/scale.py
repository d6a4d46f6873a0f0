"""What a round costs the server, by clients of the round W and dimension d: the tables of docs/scale.md.

    python benchmarks/scale.py [--json docs/results/scale.json] [--quick] [--only rounds|population|flower]

The server, its messages, codecs, ledger and aggregation are the real ones; clients are replaced by an engine that answers
each download with a valid upload, encoded beforehand. Nothing is trained, and nothing crosses a wire: what is timed is what
one server process computes. Each row runs in a process of its own, whose peak of resident memory is measured. ``--only``
measures one part anew and leaves the others in the JSON file as they are.

    rounds       W clients, d numbers, a codec
    population   what else a round of 1,000 clients costs where there are very many: the draw, the sums of the ledger's
                 accounts, a checkpoint
    flower       uploads through the engine over Flower, from nodes with one client each: what the server holds
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from flwr.app import Message as FlowerMessage
from flwr.supercore.task_identity import TaskIdentity
from rich.console import Console
from rich.table import Table

from igc.deployment.flower.engine import FlowerEngine
from igc.deployment.flower.wire import Answer, pack_answers, unpack_order
from igc.experiments import checkpoint
from igc.experiments.bench.peak import added_peak_bytes
from igc.experiments.format import format_bytes
from igc.federation import Account, Dropout, Sampler, Server
from igc.federation.engine import Reply, Request
from igc.federation.ledger import Ledger
from igc.messages import Agreement, Kind, Message, encode
from igc.methods import Static
from igc.optim import Adam
from igc.projection import BlockedHadamard
from igc.records import from_tree, to_tree

D = 124_439_808
DAY = 24 * 3600
CLIENTS = (10, 100, 1_000, 10_000)
DIMS = (1_024, 16_384, 262_144)
LARGEST = 10_000 * 16_384  # numbers of a round; more takes long and shows nothing new


class Answers:
    """An engine whose clients answer at once."""

    memories: dict[str, Any] = {}  # noqa: RUF012 - clients that remember nothing

    def __init__(self, agreement: Agreement, d: int) -> None:
        self._agreement = agreement
        self._vectors = torch.randn(8, d, generator=torch.Generator().manual_seed(0))

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        """A valid upload from each, one at a time."""
        report = {"weight": torch.tensor(8), "loss": torch.tensor(0.7)}
        payloads = [
            encode(Message(Kind.UPLOAD, round, {**report, "sketch": vector}), self._agreement)
            for vector in self._vectors
        ]
        for request in requests:
            # Bytes of its own for each client, as a socket would hand over.
            yield Reply(request.client, request.position, bytes(bytearray(payloads[request.position % 8])))

    def close(self) -> None:
        """Nothing to let go of."""


def measure(clients: int, d: int, codec: str, repeats: int) -> dict[str, Any]:
    """One row."""
    torch.set_num_threads(1)
    projection = BlockedHadamard(D=D, d=d, seed=0)
    method = Static(projection, Adam())
    agreement = Agreement(bytes(8), projection.digest, method.digest, codec, "float32")
    sampler = Sampler([f"client-{i}" for i in range(clients)], clients, seed=0)
    server = Server(method, agreement, sampler, lambda _: 1e-3)
    engine = Answers(agreement, d)
    server.run_round(engine)
    seconds: list[float] = []
    results = []

    def rounds() -> None:
        for _ in range(repeats):
            began = time.process_time()
            results.append(server.run_round(engine))
            seconds.append(time.process_time() - began)

    extra = added_peak_bytes(rounds)
    if results[-1].clients != clients:
        raise SystemExit(f"{clients - results[-1].clients} of {clients} uploads were refused: {results[-1].rejected}")
    best = sorted(seconds)[len(seconds) // 2]
    return {
        "clients": clients,
        "d": d,
        "codec": codec,
        "round_s": best,
        "ms_per_client": 1e3 * best / clients,
        "peak_extra_bytes": extra,
        "bytes_up": results[-1].bytes_up,
        "bytes_down": results[-1].bytes_down,
        "clients_a_day": int(DAY * clients / best),
    }


def population(clients: int) -> dict[str, Any]:
    """What a run does once a round, or once a checkpoint, with something of each client there is."""
    torch.set_num_threads(1)
    names = [f"client-{i}" for i in range(clients)]
    sampler = Sampler(names, min(1000, clients), seed=0)
    ledger = Ledger({name: Account(65_646, 65_656, 1, 1) for name in names})
    state = torch.zeros(16_384)

    def sums() -> None:
        # As often as a round of `igc.experiments.run` asks for them.
        for _ in range(3):
            assert ledger.up + ledger.down
        assert sum(account.uploads + account.downloads for account in ledger.accounts.values())

    with TemporaryDirectory() as folder:

        def save() -> None:
            tensors: dict[str, torch.Tensor] = {}
            tree = to_tree({"accounts": dict(ledger.accounts), "state": state}, tensors)
            checkpoint.save(Path(folder), 1, tree, tensors, 1)

        def load() -> None:
            _, tree, tensors = checkpoint.load_latest(Path(folder), print)
            from_tree(tree, tensors)

        seconds = {}
        for name, call in {"sample": lambda: sampler.sample(1), "sums": sums, "save": save, "load": load}.items():
            began = time.process_time()
            call()
            seconds[f"{name}_s"] = time.process_time() - began
        (file,) = Path(folder).glob("*.ckpt")
        return {"population": clients, **seconds, "checkpoint_bytes": file.stat().st_size}


class Nodes:
    """A grid whose nodes have one client each, and answer when they are asked whether they have."""

    def __init__(self, length: int) -> None:
        self._upload = bytes(length)
        self._orders: dict[str, FlowerMessage] = {}

    def get_nodes(self) -> list[Any]:
        """Nobody calls the roll here."""
        return []

    def push_messages(self, messages: Iterable[FlowerMessage]) -> list[str]:
        """Take orders."""
        taken = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"{len(self._orders)}"
            self._orders[message.metadata.message_id] = message
            taken.append(message.metadata.message_id)
        return taken

    def pull_messages(self, message_ids: Iterable[str]) -> list[FlowerMessage]:
        """An upload from each that was asked, with bytes of its own."""
        replies = []
        for name in message_ids:
            order = self._orders[name]
            (client,) = unpack_order(order.content).clients
            upload = Answer(bytes(bytearray(self._upload)))
            replies.append(FlowerMessage(pack_answers({client: upload}), reply_to=order))
        return replies


def flower(clients: int, length: int) -> dict[str, Any]:
    """A round's uploads through Flower's engine, which are dropped as they come."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 1  # this process is a ServerApp's
    names = [f"client-{i}" for i in range(clients)]
    roll: Any = SimpleNamespace(
        node_of={name: i + 2 for i, name in enumerate(names)}, refresh=lambda *_: None, trust=lambda _: None
    )
    engine = FlowerEngine(
        Nodes(length), roll, "run", Dropout(0.0, 0), deadline=DAY, patience=DAY, tell=lambda *_, **__: None
    )
    requests = [Request(name, i, b"download") for i, name in enumerate(names)]

    def exchange() -> None:
        assert sum(len(reply.payload or b"") for reply in engine.exchange(0, requests)) == clients * length

    return {"clients": clients, "upload_bytes": length, "peak_extra_bytes": added_peak_bytes(exchange)}


ROWS: dict[str, Callable[..., dict[str, Any]]] = {"rounds": measure, "population": population, "flower": flower}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="rounds of at most 1,000 clients")
    parser.add_argument("--only", choices=ROWS)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        print(json.dumps(ROWS[asked.row[0]](**json.loads(asked.row[1]))))
        return
    most = 1_000 if asked.quick else max(CLIENTS)
    wanted: dict[str, list[dict[str, Any]]] = {
        "rounds": [
            {"clients": clients, "d": d, "codec": codec, "repeats": 3}
            for codec in ("float32", "eden-1")
            for d in DIMS
            for clients in CLIENTS
            if clients * d <= LARGEST and clients <= most
        ],
        "population": [{"clients": clients} for clients in (10_000, 100_000, 1_000_000)],
        "flower": [{"clients": clients, "length": 65_656} for clients in CLIENTS if clients <= most],
    }
    found = json.loads(asked.json.read_text()) if asked.only and asked.json and asked.json.exists() else {}
    for part in [asked.only] if asked.only else wanted:
        found[part] = [in_its_own_process(part, row) for row in wanted[part]]
    console = Console(width=110)
    for part in ROWS:
        if part in found:
            console.print(table(part, found[part]))
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps({part: found[part] for part in ROWS if part in found}, indent=1) + "\n")


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Rows as they are, bytes and seconds readable."""
    shown = Table(*rows[0], title=title)
    for row in rows:
        shown.add_row(*(_cell(name, value) for name, value in row.items()))
    return shown


def _cell(name: str, value: Any) -> str:
    if "bytes" in name:
        return format_bytes(value)
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def in_its_own_process(part: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row, where nothing before it has touched memory."""
    command = [sys.executable, __file__, "--row", part, json.dumps(row)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
