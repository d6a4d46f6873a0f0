"""The ledger: bytes up and down, per client and round, of serialised messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from igc.records import record


@record
class Account:
    """One client's traffic so far.

    Attributes:
        down: bytes that the server sent to it.
        up: bytes that it sent to the server, those of refused uploads included.
        downloads: rounds in which it was sent something; secure aggregation takes several messages for one.
        uploads: rounds in which something came from it.
    """

    down: int = 0
    up: int = 0
    downloads: int = 0
    uploads: int = 0


class Ledger:
    """Counts the bytes of messages as they cross the wire; it never computes a length from a formula."""

    def __init__(self, accounts: Mapping[str, Account] | None = None) -> None:
        self.accounts: dict[str, Account] = dict(accounts or {})
        self._entries: dict[str, dict[str, int]] = {}

    def sent(self, client: str, payload: bytes) -> None:
        """Count a download."""
        a = self.accounts.get(client, Account())
        first = self._note(client, "down", payload)
        self.accounts[client] = Account(a.down + len(payload), a.up, a.downloads + first, a.uploads)

    def received(self, client: str, payload: bytes) -> None:
        """Count an upload, whether or not it is any good."""
        a = self.accounts.get(client, Account())
        first = self._note(client, "up", payload)
        self.accounts[client] = Account(a.down, a.up + len(payload), a.downloads, a.uploads + first)

    def close_round(self, round: int) -> dict[str, Any]:
        """The round's lines, ``{"round", "clients": {id: {"down", "up"}}}``, and begin the next."""
        entries, self._entries = self._entries, {}
        return {"round": round, "clients": {client: {"down": 0, "up": 0, **entry} for client, entry in entries.items()}}

    @property
    def up(self) -> int:
        """Bytes from clients to the server."""
        return sum(account.up for account in self.accounts.values())

    @property
    def down(self) -> int:
        """Bytes from the server to clients."""
        return sum(account.down for account in self.accounts.values())

    def _note(self, client: str, way: str, payload: bytes) -> bool:
        """Count a message in this round; whether it is the client's first that way."""
        entry = self._entries.setdefault(client, {})
        first = way not in entry
        entry[way] = entry.get(way, 0) + len(payload)
        return first
