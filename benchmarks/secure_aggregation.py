"""What secure aggregation costs: bytes of a client in a round, and seconds of all clients and of the server.

python benchmarks/secure_aggregation.py [--numbers 16384]

Clients are simulated, their uploads random; every message is encoded, decoded and counted as in training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from igc.federation import Reply, Request
from igc.federation.secure import client
from igc.federation.secure.server import SecureRound
from igc.federation.secure.settings import SecureSettings
from igc.messages import Agreement, Kind, Message, decode, encode
from igc.methods import Turn

AGREEMENT = Agreement(bytes(8), bytes(8), bytes(4))
CASES: list[tuple[int, int | None]] = [(4, None), (10, None), (40, None), (40, 11), (100, 21)]


def measure(cohort: int, shares: int | None, numbers: int) -> dict[str, float]:
    """One round."""
    settings = SecureSettings(cohort, shares=shares)
    memories: dict[str, client.Memory] = {}
    cost: dict[str, float] = {"up": 0, "down": 0, "clients": 0.0}
    vector = torch.randn(numbers, generator=torch.Generator().manual_seed(0)) / numbers**0.5

    def upload(memory: Any, download: Message) -> tuple[Any, dict[str, Tensor]]:  # noqa: ARG001
        return memory, {"sketch": vector, "weight": torch.tensor(1), "loss": torch.tensor(0.5)}

    def carry(requests: Sequence[Request]) -> Iterator[Reply]:
        for request in requests:
            began = time.perf_counter()
            download = decode(request.payload, AGREEMENT, Kind.DOWNLOAD)
            memory, tensors = client.respond(settings, 1.0, memories.get(request.client), download, upload)
            payload = encode(Message(Kind.UPLOAD, 0, tensors), AGREEMENT)
            memories[request.client] = memory
            cost["clients"] += time.perf_counter() - began
            cost["up"] += len(payload)
            cost["down"] += len(request.payload)
            yield Reply(request.client, request.position, payload)

    def refuse(name: str, why: str) -> None:
        raise RuntimeError(f"{name}: {why}")

    turns = [Turn(f"c{i}", 0, i, cohort) for i in range(cohort)]
    began = time.perf_counter()
    means = SecureRound(settings, 1.0, 4.0, numbers, AGREEMENT, carry, refuse).means(
        {0: turns}, lambda _: {"sigma": vector}
    )
    cost["server"] = time.perf_counter() - began - cost["clients"]
    assert means is not None
    cost["error"] = float((means.groups[0] - vector).abs().max())
    return cost


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=16_384, help="d")
    numbers = parser.parse_args().numbers
    torch.set_num_threads(1)
    sigma = {"sigma": torch.zeros(numbers)}
    plain_down = len(encode(Message(Kind.DOWNLOAD, 0, sigma), AGREEMENT))
    report = {"sketch": torch.zeros(numbers), "weight": torch.tensor(1), "loss": torch.tensor(0.0)}
    plain_up = len(encode(Message(Kind.UPLOAD, 0, report), AGREEMENT))
    print(f"d = {numbers:,}; plain: {plain_up:,} bytes up, {plain_down:,} down")
    print("| clients a round | neighbours | bytes up | bytes down | ms a client | s of the server | largest error |")
    print("|---|---|---|---|---|---|---|")
    for cohort, shares in CASES:
        cost = measure(cohort, shares, numbers)
        extra = [
            f"{cost[way] / cohort:,.0f} (+{cost[way] / cohort / plain - 1:.1%})"
            for way, plain in (("up", plain_up), ("down", plain_down))
        ]
        print(
            f"| {cohort} | {shares or 'all'} | {extra[0]} | {extra[1]} | {1000 * cost['clients'] / cohort:.0f} |"
            f" {cost['server']:.2f} | {cost['error']:.1e} |"
        )


if __name__ == "__main__":
    main()
