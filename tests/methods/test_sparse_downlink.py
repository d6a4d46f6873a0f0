"""Sparse downlinks: replicas equal the server's displacement, whatever was missed, lost or wiped, and cost at most D."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from igc.codecs import CODECS
from igc.codecs.index_set import index_words
from igc.federation import Reply
from igc.messages import Kind, Message, TensorError, decode, encode
from igc.methods import LocalTopK, MissedError, RandomK, TrueTopK, Turn
from igc.methods.replica import Position, Replica, patch
from igc.optim import Adam, Sgd
from igc.projection import Coordinates
from support.federation import METHODS, Federation, Maker

NAMES = ["local-top-k", "local-top-k-stateless", "true-top-k", "random-k", "fetchsgd"]
sparse = pytest.mark.parametrize("name", NAMES)
HEADERS = 100


def positions(f: Federation, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Round by round: where clients computed, and where the server was."""
    seen: list[Tensor] = []
    original = type(f.workplace.worker(next(iter(f.clients)), 0)).sketch

    def spy(worker: Any, projection: Any) -> Any:
        seen.append(f.theta())
        return original(worker, projection)

    monkeypatch.setattr("igc.federation.worker.ClientWorker.sketch", spy)
    while True:
        expected = f.position()
        seen.clear()
        f.run(1)
        yield seen, expected


@sparse
def test_every_client_stands_where_the_server_stands_and_downloads_at_most_the_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uniform sampling, dropouts, lost uploads, wiped devices: gaps of any length."""
    f = Federation(METHODS[name], sampling="uniform", per_round=2, dropout=0.2, d=6)
    losing = torch.rand(80, 2, generator=torch.Generator().manual_seed(0)) < 0.2
    f.engine.tamper = lambda number, reply: (
        reply._replace(payload=None, error="lost") if losing[number, reply.position] else reply
    )
    stands = positions(f, monkeypatch)
    computed = 0
    for number in range(40):
        if number % 9 == 8:
            f.engine.inner.memories.pop(f.sampler.sample(number)[0], None)
        seen, expected = next(stands)
        for theta in seen:
            assert torch.equal(theta, expected)
        computed += len(seen)
    assert computed > 40
    downloads = [decode(payload, f.agreement, Kind.DOWNLOAD) for _, _, payload in f.engine.down]
    assert {"values" in message for message in downloads} == {True, False}
    for _, _, payload in f.engine.down:
        assert len(payload) <= 4 * f.space.D + HEADERS


@sparse
def test_simulated_memories_are_those_of_devices_that_each_keep_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`condense` lets all clients share one replica; without it each holds its own, and not a byte differs."""
    shared = Federation(METHODS[name], sampling="uniform", per_round=2, dropout=0.2, d=6)
    shared.run(25)
    own = Federation(METHODS[name], sampling="uniform", per_round=2, dropout=0.2, d=6)
    monkeypatch.setattr(type(own.method), "condense", lambda self, memories, newest: memories)
    own.run(25)
    assert shared.engine.up == own.engine.up
    assert shared.engine.down == own.engine.down

    def replicas(f: Federation) -> int:
        return len({id(memory.replica.displacement) for memory in f.engine.inner.memories.values()})

    assert replicas(shared) == 1 < replicas(own)


def test_a_patch_is_what_changed_since_and_nothing_else() -> None:
    D = 1000
    start = torch.zeros(D)
    position = Position(start, torch.zeros(D, dtype=torch.int32), {})
    touched = [[1, 2, 3], [3, 4], [500], [3, 999]]
    held = [start]
    means: Any = type("Means", (), {"clients": ()})
    for number, places in enumerate(touched):
        moved = position.displacement.clone()
        moved[places] += number + 1.0
        position = position.moved(moved, means, number)
        held.append(moved)
    for since in range(5):  # download number n comes before round n - 1
        expected = sorted({i for places in touched[max(since - 1, 0) :] for i in places})
        found = patch(position, since)
        assert found["values"].numel() == len(expected)
        replica = held[max(since - 1, 0)].clone()
        replica[expected] = found["values"]
        assert torch.equal(replica, position.displacement)
    assert patch(position, 5).keys() == {"since"}


@pytest.mark.parametrize("down", ["float32", "float16", "int8", "eden-4", "eden-1"])
@pytest.mark.parametrize("changed", [0, 1, 30, 500, 900, 960, 990, 1000])
def test_a_patch_takes_the_shortest_of_its_forms(changed: int, down: str) -> None:
    D = 1000
    displacement = torch.zeros(D)
    displacement[:changed] = 1.0
    found = patch(Position(displacement, displacement.int(), {}), 0, down)
    taken = sum(
        4 * tensor.numel() if name in ("since", "indices") else len(CODECS[down].encode(tensor))
        for name, tensor in found.items()
    )
    sparse = 4 * index_words(changed, D) + len(CODECS[down].encode(torch.ones(changed))) if changed else 0
    assert taken == 4 + min(sparse, len(CODECS[down].encode(torch.ones(D))))


@sparse
def test_a_wiped_client_says_so_and_is_sent_everything(name: str) -> None:
    f = Federation(METHODS[name], sampling="uniform", per_round=7)
    f.run(6)
    client = next(iter(f.clients))
    f.engine.inner.memories.pop(client)
    assert f.run(1)[0].rejected == {client: "missed"}
    assert f.run(1)[0].rejected == {}
    everything = [decode(p, f.agreement, Kind.DOWNLOAD) for _, who, p in f.engine.down if who == client][-1]
    assert int(everything["since"]) == 0
    others = [decode(p, f.agreement, Kind.DOWNLOAD) for _, who, p in f.engine.down if who != client][-1]
    assert int(others["since"]) == 7


def test_a_download_that_builds_on_what_a_client_lacks_is_not_used() -> None:
    f = Federation(METHODS["true-top-k"], sampling="uniform", per_round=7)
    f.run(4)
    client = next(iter(f.clients))
    message = Message(Kind.DOWNLOAD, 4, f.method.download(f.server.state, Turn(client, 4, 0, 7)))
    memory = f.engine.inner.memories[client]
    old = dataclasses.replace(memory, replica=Replica(3, memory.replica.displacement))
    with pytest.raises(MissedError, match="download 5 builds on number 4, here is 3"):
        f.method.upload(old, message, f.workplace.worker(client, 4))


def test_ill_formed_downloads_are_refused() -> None:
    f = Federation(METHODS["true-top-k"])
    D = f.space.D
    bad: list[tuple[Mapping[str, Tensor], str]] = [
        ({"displacement": torch.zeros(D)}, "says what it builds on"),
        ({"since": torch.tensor(0), "displacement": torch.zeros(D - 1)}, f"due was .{D},."),
        ({"since": torch.tensor(0), "values": torch.zeros(3)}, "come together"),
        ({"since": torch.tensor(0), "values": torch.zeros(D + 1), "indices": torch.zeros(3).long()}, "the model has"),
        ({"since": torch.tensor(0), "values": torch.zeros(3), "indices": torch.zeros(9).long()}, "'indices': 9 words"),
    ]
    for tensors, message in bad:
        with pytest.raises(TensorError, match=message):
            f.method.upload(f.method.client_init(), Message(Kind.DOWNLOAD, 0, tensors), f.workplace.worker("c0", 0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda indices: indices ^ 2, "'indices'"),
        (torch.zeros_like, "'indices': 0 indices where there are 8 values"),
        (lambda indices: torch.full_like(indices, 2**32 - 1), "'indices'"),
        (lambda indices: indices[:-1], "'indices' has shape"),
    ],
)
def test_uploads_whose_indices_are_no_set_are_left_out_and_named(change: Any, reason: str) -> None:
    f, g = Federation(METHODS["local-top-k"]), Federation(METHODS["local-top-k"])
    victim = f.sampler.sample(0)[1]

    def poison(number: int, reply: Reply) -> Reply:
        if reply.client != victim or reply.payload is None:
            return reply
        tensors = dict(decode(reply.payload, f.agreement, Kind.UPLOAD).tensors)
        tensors["indices"] = change(tensors["indices"])
        return reply._replace(payload=encode(Message(Kind.UPLOAD, number, tensors), f.agreement))

    f.engine.tamper = poison
    g.engine.tamper = lambda _, reply: reply._replace(payload=None, error="lost") if reply.client == victim else reply
    poisoned, _ = f.run(1)[0], g.run(1)[0]
    assert reason in poisoned.rejected[victim]
    assert torch.equal(f.position(), g.position())


WHOLE: dict[str, Maker] = {
    "local-top-k": lambda p, o: LocalTopK.of(p.D, o, p.D),
    "true-top-k": lambda p, o: TrueTopK.of(p.D, p.D, getattr(o, "momentum", 0.0), masking=False),
    "random-k": lambda p, o: RandomK(Coordinates(p.D, p.D, 1), o),
}


OPTIMIZERS = {"sgd": Sgd(), "momentum": Sgd(0.9), "adam": Adam()}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [(name, key) for name in WHOLE for key in OPTIMIZERS if (name, key) != ("true-top-k", "adam")],  # its step is SGD's
)
def test_all_coordinates_are_the_uncompressed_method(name: str, optimizer: str) -> None:
    plain = Federation(METHODS["fedsgd"], optimizer=OPTIMIZERS[optimizer])
    whole = Federation(WHOLE[name], optimizer=OPTIMIZERS[optimizer])
    for _ in range(6):
        plain.run(1)
        whole.run(1)
        torch.testing.assert_close(whole.position(), plain.position(), rtol=1e-5, atol=1e-6)
    for number, _, payload in whole.engine.down:
        assert len(payload) <= 4 * whole.space.D + HEADERS
        assert number == 0 or len(payload) > 4 * whole.space.D
