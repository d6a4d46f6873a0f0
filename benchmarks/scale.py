"""What a round costs the server, by clients of the round W and dimension d: the tables of docs/scale.md.

    python benchmarks/scale.py [--json docs/results/scale.json] [--quick]

The server, its messages, codecs, ledger and aggregation are the real ones; clients are replaced by an engine that answers
each download with a valid upload, encoded beforehand. Nothing is trained, and nothing crosses a wire: what is timed is what
one server process computes. Each row runs in a process of its own, whose peak of resident memory is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from igc.experiments.bench.peak import added_peak_bytes
from igc.experiments.format import format_bytes
from igc.federation import Sampler, Server
from igc.federation.engine import Reply, Request
from igc.messages import Agreement, Kind, Message, encode
from igc.methods import Static
from igc.optim import Adam
from igc.projection import BlockedHadamard

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


def sampling(population: int) -> dict[str, Any]:
    """Drawing a round's clients out of very many."""
    sampler = Sampler([str(i) for i in range(population)], 1000, seed=0)
    began = time.process_time()
    sampler.sample(1)
    return {"population": population, "sample_s": time.process_time() - began}


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="rounds of at most 1,000 clients")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        print(json.dumps(measure(**json.loads(asked.row))))
        return
    rows = []
    for codec in ("float32", "eden-1"):
        for d in DIMS:
            for clients in CLIENTS:
                if clients * d <= LARGEST and not (asked.quick and clients > 1_000):
                    rows.append(in_its_own_process(clients=clients, d=d, codec=codec, repeats=3))
    drawn = [sampling(population) for population in (10_000, 1_000_000)]
    table = Table("W", "d", "codec", "round", "a client", "memory added", "up", "clients a day", title="One server")
    for row in rows:
        table.add_row(
            f"{row['clients']:,}",
            f"{row['d']:,}",
            row["codec"],
            f"{row['round_s']:.3f} s",
            f"{row['ms_per_client']:.3f} ms",
            format_bytes(row["peak_extra_bytes"]),
            format_bytes(row["bytes_up"]),
            f"{row['clients_a_day'] / 1e6:,.0f} million",
        )
    console = Console(width=110)
    console.print(table)
    for draw in drawn:
        console.print(f"drawing 1,000 of {draw['population']:,} clients: {draw['sample_s']:.3f} s")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps({"rounds": rows, "sampling": drawn}, indent=1) + "\n", encoding="utf-8")


def in_its_own_process(**row: Any) -> dict[str, Any]:
    """`measure`, where nothing before it has touched memory."""
    command = [sys.executable, __file__, "--row", json.dumps(row)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
