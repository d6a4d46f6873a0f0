"""The ledger against a plain list of what was sent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from igc.federation.ledger import Account, Ledger
from igc.records import from_tree, to_tree

transfers = st.tuples(st.sampled_from(["ann", "ben", "cy"]), st.sampled_from(["down", "up"]), st.integers(0, 50))
rounds = st.lists(st.lists(transfers, max_size=6), max_size=5)


@dataclass
class Book:
    """Every transfer of a training, as (round, client, way, bytes)."""

    lines: list[tuple[int, str, str, int]] = field(default_factory=list)

    def total(self, way: str, **wanted: object) -> int:
        return sum(size for _, _, size in self._of(way, **wanted))

    def count(self, way: str, **wanted: object) -> int:
        return len({round for round, _, _ in self._of(way, **wanted)})

    def _of(self, way: str, **wanted: object) -> list[tuple[int, str, int]]:
        found = [(r, c, s) for r, c, w, s in self.lines if w == way]
        return [(r, c, s) for r, c, s in found if wanted.get("client", c) == c and wanted.get("round", r) == r]


def carry(ledger: Ledger, client: str, way: str, size: int) -> None:
    (ledger.sent if way == "down" else ledger.received)(client, bytes(size))


@given(training=rounds)
def test_totals_are_the_sums_of_what_was_sent(training: list[list[tuple[str, str, int]]]) -> None:
    ledger, book = Ledger(), Book()
    for number, moves in enumerate(training):
        for client, way, size in moves:
            carry(ledger, client, way, size)
            book.lines.append((number, client, way, size))
        closed = ledger.close_round(number)
        assert closed["round"] == number
        assert closed["clients"].keys() == {client for client, _, _ in moves}
        for client, line in closed["clients"].items():
            assert line == {way: book.total(way, round=number, client=client) for way in ("down", "up")}
        assert json.loads(json.dumps(closed)) == closed
    assert (ledger.down, ledger.up) == (book.total("down"), book.total("up"))
    assert ledger.accounts.keys() == {client for _, client, _, _ in book.lines}
    for client, account in ledger.accounts.items():
        assert account == Account(
            down=book.total("down", client=client),
            up=book.total("up", client=client),
            downloads=book.count("down", client=client),
            uploads=book.count("up", client=client),
        )


@given(training=rounds, cut=st.integers(0, 5))
def test_a_ledger_goes_on_from_its_accounts(training: list[list[tuple[str, str, int]]], cut: int) -> None:
    straight, broken = Ledger(), Ledger()
    for number, moves in enumerate(training):
        if number == cut:  # killed and resumed: accounts through a checkpoint
            broken = Ledger(from_tree(json.loads(json.dumps(to_tree(broken.accounts, {}))), {}))
        for ledger in (straight, broken):
            for move in moves:
                carry(ledger, *move)
        assert straight.close_round(number) == broken.close_round(number)
    assert straight.accounts == broken.accounts
    assert (straight.down, straight.up) == (broken.down, broken.up)


def test_accounts_given_are_not_changed() -> None:
    given_accounts = {"ann": Account(down=5)}
    ledger = Ledger(given_accounts)
    ledger.sent("ann", b"abc")
    assert given_accounts == {"ann": Account(down=5)}
    assert ledger.down == 8


def test_an_empty_message_is_still_a_message() -> None:
    ledger = Ledger()
    ledger.received("ann", b"")
    assert ledger.accounts["ann"] == Account(uploads=1)
    assert ledger.close_round(0)["clients"] == {"ann": {"down": 0, "up": 0}}
