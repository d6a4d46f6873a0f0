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
        downloads: messages sent to it.
        uploads: messages that came from it.
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
        self.accounts[client] = Account(a.down + len(payload), a.up, a.downloads + 1, a.uploads)
        self._entry(client)["down"] += len(payload)

    def received(self, client: str, payload: bytes) -> None:
        """Count an upload, whether or not it is any good."""
        a = self.accounts.get(client, Account())
        self.accounts[client] = Account(a.down, a.up + len(payload), a.downloads, a.uploads + 1)
        self._entry(client)["up"] += len(payload)

    def close_round(self, round: int) -> dict[str, Any]:
        """The round's lines, ``{"round", "clients": {id: {"down", "up"}}}``, and begin the next."""
        entries, self._entries = self._entries, {}
        return {"round": round, "clients": entries}

    @property
    def up(self) -> int:
        """Bytes from clients to the server."""
        return sum(account.up for account in self.accounts.values())

    @property
    def down(self) -> int:
        """Bytes from the server to clients."""
        return sum(account.down for account in self.accounts.values())

    def _entry(self, client: str) -> dict[str, int]:
        return self._entries.setdefault(client, {"down": 0, "up": 0})
