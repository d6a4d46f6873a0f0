"""Who is asked for a client: nobody takes one from a node that has it, and a server that knows better says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message
from flwr.clientapp import ClientApp

from igc.deployment.flower import roll as rolls
from igc.deployment.flower.owners import CLAIMS, Claims, Owners
from igc.deployment.flower.roll import Roll
from igc.deployment.flower.wire import Presence, pack_presence
from igc.errors import RecipeError, RunError
from support.grid import FakeGrid, identify

EVERYBODY = ("a", "b", "c", "ward-1", "ward-2")


@pytest.fixture(autouse=True)
def _server() -> None:
    identify()


class Nodes(FakeGrid):
    """Nodes that answer the roll call with given clients, or not at all."""

    def has(self, number: int, *clients: str, answers: bool = True, key: bytes = b"") -> None:
        app = ClientApp()

        @app.query()
        def call(message: Message, context: Any) -> Message:
            return Message(pack_presence(Presence(clients, "1")), reply_to=message)

        node = self.add(number, app, {}, {})
        self.keys[number] = key
        if not answers:
            node.behave = lambda message, reply: None


class Told:
    """Events, as they are told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    def warnings(self) -> list[str]:
        return [facts["text"] for event, facts in self.events if event == "warning"]


def roll(grid: Nodes, tell: Callable[..., None] = lambda event, **facts: None, **settings: Any) -> Roll:
    return Roll(grid, EVERYBODY, tell, 0.001, **settings)


def test_a_node_that_claims_everybody_gets_nobody_whom_others_have() -> None:
    grid, told = Nodes(), Told()
    found = roll(grid, told)
    grid.has(1, "a", "b")
    grid.has(2, "c")
    found.refresh((), 1)
    grid.has(9, *EVERYBODY)
    found.refresh((), 1)
    honest = {"a": 1, "b": 1, "c": 2}
    assert honest.items() <= found.node_of.items()
    (warning,) = told.warnings()
    assert "node 9 claims 3 clients that others have, first 'a', which node 1 keeps while it is online" in warning
    found.doubt(1)  # late once is no reason to give its clients away
    assert honest.items() <= found.node_of.items()


def test_a_client_comes_back_to_the_node_that_had_it_first() -> None:
    grid = Nodes()
    found = roll(grid)
    grid.has(1, "a")
    found.refresh((), 1)
    grid.has(9, "a", "b")
    found.refresh((), 1)
    del grid.nodes[1]
    found.refresh((), 1)
    assert found.node_of == {"a": 9, "b": 9}
    grid.has(1, "a")
    found.refresh((), 1)
    assert found.node_of == {"a": 1, "b": 9}


def test_a_later_server_of_the_run_knows_who_had_whom(tmp_path: Path) -> None:
    grid = Nodes()
    grid.has(1, "a", "b")
    roll(grid, claims=Claims(tmp_path / CLAIMS)).refresh(("a", "b"), 1)
    grid.has(1, "a", "b", answers=False)  # it has not answered the new server's roll call yet
    grid.has(0, *EVERYBODY)  # and this one has
    found = roll(grid, claims=Claims(tmp_path / CLAIMS), slow=0.01)
    found.refresh(("a", "b"), 1)
    assert found.node_of == {"c": 0, "ward-1": 0, "ward-2": 0}
    grid.has(1, "b")
    found.refresh(("a", "b"), 1)
    assert found.node_of["b"] == 1
    assert found.node_of["a"] == 0  # which node 1 says that it has no more


def test_claims_survive_a_kill_within_a_line_and_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / CLAIMS
    Claims(path).add(1, ["a", "b"])
    with path.open("a") as file:
        file.write('{"node": 2, "cli')
    claims = Claims(path)
    claims.add(3, ["b", "c"])
    claims.add(3, ["c"])
    again = Claims(path)
    assert [again.nodes(name) for name in ("a", "b", "c", "d")] == [(1,), (1, 3), (3,), ()]
    assert len(path.read_text().splitlines()) == 2
    path.write_text("[]\n")
    with pytest.raises(RunError, match=r"owners\.jsonl: .*; delete it to have nodes claim"):
        Claims(path)


def public_key() -> tuple[bytes, str]:
    """A key as Flower tells it, and as the node's ``.pub`` file has it."""
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem, public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def test_an_allowlist_decides_whoever_answers_first() -> None:
    (wards, wards_pub), (stranger, _) = public_key(), public_key()
    grid, told = Nodes(), Told()
    grid.has(1, *EVERYBODY, key=stranger)
    grid.has(2, "a", "b", "c")
    grid.has(3, "ward-1", "ward-2", "a", key=wards)
    found = roll(grid, told, owners=Owners.read(f"2: a, c; {wards_pub} hospital@host: ward-*"))
    found.refresh(EVERYBODY, 0.05)
    assert found.node_of == {"a": 2, "c": 2, "ward-1": 3, "ward-2": 3}  # and nobody has b
    assert any(
        "node 1 claims 5 clients that `owners` does not let it have, first 'a'; left out" in text
        for text in told.warnings()
    )
    assert [facts["clients"] for event, facts in told.events if event == "node-joined"] == [2, 2, 0]


def test_nodes_that_are_allowed_the_same_client_stand_in_for_one_another() -> None:
    grid = Nodes()
    found = roll(grid, owners=Owners.read("1: *\n2: a"))
    grid.has(1, "a", "b")
    found.refresh((), 1)
    grid.has(2, "a", "b")
    found.refresh((), 1)
    assert found.node_of == {"a": 1, "b": 1}
    found.doubt(1)
    assert found.node_of == {"a": 2, "b": 1}
    found.trust(1)
    assert found.node_of == {"a": 1, "b": 1}


@pytest.mark.parametrize("line", ["a", "1", "1:", "1 2: a", "node-0.pub: a", ": a", "-3: a"])
def test_an_allowlist_says_what_is_wrong_with_it(line: str) -> None:
    with pytest.raises(RecipeError, match=r"run config: owners: .* is not NODE: CLIENT"):
        Owners.read(f"17: a, b; {line}")


def test_no_allowlist_is_none() -> None:
    assert Owners.read(" \n ; ") is None


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_node_that_never_answers_the_roll_call_holds_up_no_round_but_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(rolls, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    grid = Nodes()
    grid.has(1, "a")
    grid.has(2, "b", answers=False)
    found = Roll(grid, EVERYBODY, lambda event, **facts: None, 1.0, slow=30.0)
    waits = []
    for _ in range(3):
        before = clock.now
        found.refresh(("a", "b"), 600)
        waits.append(clock.now - before)
    assert waits[0] == pytest.approx(30, abs=2)
    assert waits[1:] == [0, 0]
    assert len(grid.sent) == 2  # asked once
    grid.has(2, "b")
    found.refresh(("a", "b"), 600)
    assert found.node_of == {"a": 1, "b": 2}  # it is heard all the same


def test_waiting_for_a_quorum_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told, grid = Clock(), Told(), Nodes()
    monkeypatch.setattr(rolls, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    grid.has(1, "a")
    assert Roll(grid, EVERYBODY, told, 1.0).wait_for(EVERYBODY, 2, 300) == 1
    waiting = [facts for event, facts in told.events if event == "waiting"]
    assert 3 <= len(waiting) <= 6
    assert waiting[0] == {"clients": 1, "needed": 2, "nodes": 1, "seconds": 300}
    assert [facts["seconds"] for facts in waiting] == sorted((facts["seconds"] for facts in waiting), reverse=True)
