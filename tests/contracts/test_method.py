"""What every method must satisfy."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from igc.federation import Reply
from igc.federation.engine import MISSED
from igc.federation.worker import ClientWorker
from igc.messages import Kind, Message, decode, encode
from igc.methods import Sketch, Turn
from igc.projection import Projection
from igc.records import from_tree, to_tree
from support.federation import LINEAR, METHODS, Federation

methods = pytest.mark.parametrize("name", METHODS)
ROUNDS = 5


@methods
def test_the_ledger_is_the_length_of_what_crossed_the_wire(name: str) -> None:
    f = Federation(METHODS[name], dropout=0.3)
    results = f.run(ROUNDS)
    ledger = f.server.ledger
    assert ledger.down == sum(len(payload) for _, _, payload in f.engine.down)
    assert ledger.up == sum(len(payload) for _, _, payload in f.engine.up)
    for client in f.clients:
        down = [len(payload) for _, who, payload in f.engine.down if who == client]
        up = [len(payload) for _, who, payload in f.engine.up if who == client]
        account = ledger.accounts[client] if down else None
        if account:
            assert (account.down, account.up) == (sum(down), sum(up))
            assert (account.downloads, account.uploads) == (len(down), len(up))
    for result in results:
        lines = result.traffic["clients"]
        assert result.bytes_down == sum(line["down"] for line in lines.values())
        assert result.bytes_up == sum(line["up"] for line in lines.values())
        assert result.bytes_down == sum(len(p) for r, _, p in f.engine.down if r == result.round)


@methods
def test_uploads_have_the_promised_tensors_and_nothing_else(name: str) -> None:
    f = Federation(METHODS[name])
    for _ in range(ROUNDS):
        shapes = {key: due.shape for key, due in f.method.due_in(f.server.state).items()}
        f.run(1)
        for number, _, payload in f.engine.up:
            upload = decode(payload, f.agreement, Kind.UPLOAD, number)
            assert {key: tuple(tensor.shape) for key, tensor in upload.tensors.items()} == shapes
        assert f.engine.up
        f.engine.up.clear()
    assert shapes == {key: due.shape for key, due in f.method.due().items()}


@pytest.mark.parametrize("name", LINEAR)
def test_an_upload_is_linear_in_the_gradient_where_the_method_says_so(name: str) -> None:
    f = Federation(METHODS[name])
    f.run(3)
    turn = Turn("x", 3, 0, 3)
    download = Message(Kind.DOWNLOAD, 3, {k: v.clone() for k, v in f.method.download(f.server.state, turn).items()})
    names = list(f.clients)[:3]
    parts, weights = [], []
    for client in names:
        memory = f.method.client_init()
        _, tensors = f.method.upload(memory, download, f.workplace.worker(client, 3))
        parts.append(tensors["sketch"].double())
        weights.append(int(tensors["weight"]))
    f.clients["union"] = [example for client in names for example in f.clients[client]]
    f.workplace._clients = f.clients
    _, tensors = f.method.upload(f.method.client_init(), download, f.workplace.worker("union", 3))
    mean = sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights)
    torch.testing.assert_close(tensors["sketch"].double(), mean, rtol=1e-4, atol=1e-6)


@methods
def test_state_and_memories_survive_json_and_tensors_and_go_on_the_same(name: str) -> None:
    straight, broken = Federation(METHODS[name]), Federation(METHODS[name])
    straight.run(ROUNDS)
    broken.run(3)
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(to_tree({"state": broken.server.state, "memories": broken.engine.inner.memories}, tensors))
    again = Federation(METHODS[name])
    found = from_tree(json.loads(tree), tensors)
    again.server.state, again.engine.inner.memories = found["state"], found["memories"]
    again.server.round = 3
    again.run(ROUNDS - 3)
    assert torch.equal(again.position(), straight.position())
    assert [p for r, _, p in straight.engine.up if r >= 3] == [p for _, _, p in again.engine.up]


@methods
def test_two_runs_put_the_same_bytes_on_the_wire(name: str) -> None:
    a, b = Federation(METHODS[name], batch=2), Federation(METHODS[name], batch=2)
    torch.manual_seed(1)
    a.run(ROUNDS)
    torch.manual_seed(2)
    b.run(ROUNDS)
    assert a.engine.down == b.engine.down
    assert a.engine.up == b.engine.up


@methods
def test_a_round_without_uploads_changes_nothing_but_the_round(name: str) -> None:
    f = Federation(METHODS[name])
    f.run(1)
    before = f.position()
    f.engine.tamper = lambda number, reply: Reply(reply.client, reply.position, None, "dropped")
    result = f.run(1)[0]
    assert result.clients == 0
    assert result.loss is None
    assert len(result.dropped) == 3
    assert torch.equal(f.position(), before)
    assert f.server.round == 2


@methods
def test_a_bad_upload_is_left_out_named_and_paid_for(name: str) -> None:
    f, g = Federation(METHODS[name]), Federation(METHODS[name])
    assert f.run(1)[0].clients == g.run(1)[0].clients == 3
    victim = f.sampler.sample(1)[1]

    def poison(number: int, reply: Reply) -> Reply:
        if reply.client != victim or reply.payload is None:
            return reply
        upload = decode(reply.payload, f.agreement, Kind.UPLOAD)
        tensors = dict(upload.tensors)
        vector = next(key for key, tensor in tensors.items() if tensor.is_floating_point() and tensor.dim())
        tensors[vector] = tensors[vector].clone()
        tensors[vector][0] = torch.nan
        return reply._replace(payload=encode(Message(Kind.UPLOAD, number, tensors), f.agreement))

    f.engine.tamper = poison
    g.engine.tamper = lambda _, reply: (
        reply._replace(payload=None, error="dropped") if reply.client == victim else reply
    )
    poisoned, without = f.run(1)[0], g.run(1)[0]
    assert "NaN" in poisoned.rejected[victim]
    assert torch.equal(f.position(), g.position())
    assert poisoned.bytes_up > without.bytes_up


@methods
def test_settings_and_projection_are_in_the_agreement(name: str) -> None:
    f = Federation(METHODS[name])
    assert json.loads(json.dumps(f.method.settings)) == f.method.settings
    assert len(_digests(f)) == len(METHODS)


def _digests(f: Federation) -> set[bytes]:
    optimizer: Any = None
    return {make(f.projection, optimizer).digest for make in METHODS.values()}


def test_missed_is_the_only_error_that_makes_the_server_forget() -> None:
    f = Federation(METHODS["time-varying"])
    f.run(6)
    known = dict(f.server.state.known)
    client = f.sampler.sample(6)[0]
    f.engine.inner.memories.pop(client)  # a device that was wiped
    result = f.run(1)[0]
    assert result.rejected == {client: MISSED}
    assert client in known
    assert client not in f.server.state.known


@methods
def test_a_client_whose_gradient_overflows_once_is_sound_again_later(name: str) -> None:
    """Its loss is finite, so that the server alone sees it; what it remembers spoils no later upload."""
    f = Federation(METHODS[name], per_round=7, non_finite="skip")
    victim, sketch, turns = "c0", ClientWorker.sketch, iter([True])

    def overflown(self: ClientWorker, projection: Projection) -> Sketch:
        found = sketch(self, projection)
        spoilt = self.client == victim and next(turns, False)
        return found._replace(vector=found.vector * torch.inf) if spoilt else found

    f.run(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientWorker, "sketch", overflown)
        f.run(1)
    assert f.run(2)[-1].rejected == {}
    assert bool(torch.isfinite(f.position()).all())
