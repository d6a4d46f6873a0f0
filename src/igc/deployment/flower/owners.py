"""Whose word counts for which client: what the server's settings allow, and who claimed a client first.

Flower proves which node speaks; which clients a node has is that node's own claim. So a claim never takes a client from the
node that had it before, and a server that knows better says so (``owners`` in the run's settings).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Final, Self, final

from igc.errors import RecipeError, RunError
from igc.experiments.metrics import JsonLines

CLAIMS: Final = "owners.jsonl"


@final
@dataclass(frozen=True)
class Owners:
    """An allowlist: node -> patterns of the clients that it may have.

    Attributes:
        by_id: node ids, as the SuperLink gives them.
        by_key: public keys, as in the base64 of their ``.pub`` file.
    """

    by_id: Mapping[int, tuple[str, ...]]
    by_key: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The allowlist in a setting, ``NODE: PATTERN, PATTERN`` a line, or parted by ``;``; None where it is empty.

        Raises:
            RecipeError: a line says something else.
        """
        by_id: dict[int, tuple[str, ...]] = {}
        by_key: dict[str, tuple[str, ...]] = {}
        for line in filter(None, (part.strip() for part in re.split(r"[\n;]", text))):
            node, colon, listing = line.partition(":")
            patterns = tuple(filter(None, (name.strip() for name in listing.split(","))))
            words = node.split()
            keys = [word for word in words if word.startswith("AAAA")]
            if colon and patterns and keys:
                by_key[keys[0]] = by_key.get(keys[0], ()) + patterns
            elif colon and patterns and len(words) == 1 and words[0].isdecimal():
                by_id[int(words[0])] = by_id.get(int(words[0]), ()) + patterns
            else:
                raise RecipeError(
                    f"run config: owners: '{line[:60]}' is not NODE: CLIENT, ..., with a node's id or the content of its"
                    " .pub file, and names or patterns such as ward-*"
                )
        return cls(by_id, by_key) if by_id or by_key else None

    def admitted(self, node: int, key: bytes, names: Iterable[str]) -> tuple[str, ...]:
        """Those of some clients that a node may have.

        Args:
            node: its id.
            key: its public key as Flower has it, PEM; empty where it has none.
            names: of clients.
        """
        patterns = (*self.by_id.get(node, ()), *self.by_key.get(_openssh(key), ()))
        if not patterns:
            return ()
        fits = re.compile("|".join(translate(pattern) for pattern in patterns)).match
        return tuple(name for name in names if fits(name))


@final
class Claims:
    """Client -> the nodes that have claimed it, the earliest first, over all ServerApps of a run.

    Nodes that are gone stay listed: one that comes back under its own key gets back what was its own.

    Args:
        path: of the log, a JSON object for each node and its new claims; None: in memory alone.

    Raises:
        RunError: the file cannot be read, or is no such log.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._nodes: dict[str, list[int]] = {}
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path is not None and path.exists() else []
            for line in lines:
                claim = json.loads(line)
                self._note(int(claim["node"]), map(str, claim["clients"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"cannot read {path}: {error}; delete it to have nodes claim their clients anew") from error

    def nodes(self, client: str) -> tuple[int, ...]:
        """Who has claimed a client, the earliest first."""
        return tuple(self._nodes.get(client, ()))

    def add(self, node: int, clients: Collection[str]) -> None:
        """A node says which clients it has.

        Raises:
            RunError: the log cannot be written.
        """
        new = self._note(node, clients)
        if new and self._path is not None:
            with JsonLines(self._path) as log:
                log.append({"node": node, "clients": new})

    def _note(self, node: int, clients: Iterable[str]) -> list[str]:
        new = []
        for client in clients:
            nodes = self._nodes.setdefault(client, [])
            if node not in nodes:
                nodes.append(node)
                new.append(client)
        return new


def _openssh(key: bytes) -> str:
    """The base64 of a PEM public key's ``.pub`` file; empty for what is none."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 (Flower's own, for those who list keys)
        Encoding,
        PublicFormat,
        load_pem_public_key,
    )

    try:
        public = load_pem_public_key(key)
        return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1].decode()
    except (ValueError, TypeError):
        return ""
