"""What clients remember, on their node: in the context that Flower keeps for it, or in a folder of its own.

Flower keeps a context for as long as the SuperNode lives and the run goes on. A folder survives both: a SuperNode that
was started anew, and a run that was resumed. What a method remembers may be lost without harm: a client that lacks what a
download builds on says so, and is sent all of it. Not so an account, by which a client with local noise or secure
aggregation answers no round twice: each run has its own, no run replaces another's, and one that cannot be read is a reason
to answer nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final, Protocol, final

from flwr.app import ConfigRecord, RecordDict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from igc.errors import CheckpointError
from igc.federation.engine import RefusedError
from igc.files import write_atomically
from igc.records import from_tree, to_tree

PREFIX: Final = "igc.memory."
_SESSION: Final = re.compile(r"[0-9a-f]{1,32}")  # as igc's servers make them; others are free to
_ACCOUNT: Final = ".account"
_NAME_MOST: Final = 40  # characters of a client's name in that of a file


class DamagedError(RefusedError):
    """What a client remembers is there and cannot be read, and it must not do without."""


class Memories(Protocol):
    """Client -> what it remembers of one session; None where that is nothing, or was lost."""

    def get(self, session: str, client: str) -> Any:
        """What a client remembers."""

    def put(self, session: str, client: str, memory: Any) -> None:
        """Remember."""


@final
class ContextMemories:
    """Memories in a node's context.

    Args:
        state: of the context; one record a client.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    def get(self, session: str, client: str) -> Any:
        """What a client remembers."""
        record = self._state.get(PREFIX + client)
        if not isinstance(record, ConfigRecord) or record.get("session") != session:
            return None
        data = record.get("memory")
        assert isinstance(data, bytes)  # nobody else writes there, and no disk is between
        return unpack(data)

    def put(self, session: str, client: str, memory: Any) -> None:
        """Remember until the SuperNode or the run ends."""
        self._state[PREFIX + client] = ConfigRecord({"session": session, "memory": pack(memory)})


@final
class FolderMemories:
    """Memories in files, one a client; those of another session are replaced, unless they hold accounts.

    Args:
        folder: of this node alone; made if need be.
        accounts: whether clients keep an account of what they answered: there is then a file for each client and session,
            and nothing is deleted.
    """

    def __init__(self, folder: Path, *, accounts: bool = True) -> None:
        self._folder = folder
        self._accounts = accounts

    def get(self, session: str, client: str) -> Any:
        """What a client remembers.

        Raises:
            DamagedError: it keeps an account, and the file cannot be read.
        """
        mark = _mark(session)
        # Accounts, too, had the other name before igc kept them apart.
        paths = [self._account(session, client), self._plain(client)] if self._accounts else [self._plain(client)]
        for path in paths:
            try:
                data = path.read_bytes()
                if data.startswith(mark):
                    return unpack(data.removeprefix(mark))
                if path.suffix == _ACCOUNT:
                    raise CheckpointError("it is of another run, or its beginning is gone")
            except FileNotFoundError:
                continue
            except (OSError, CheckpointError) as error:
                if self._accounts:
                    raise _damaged(path, error) from error
        return None

    def put(self, session: str, client: str, memory: Any) -> None:
        """Remember for good.

        Raises:
            OSError: the disk failed.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._account(session, client) if self._accounts else self._plain(client)
        write_atomically(path, _mark(session) + pack(memory))

    def _plain(self, client: str) -> Path:
        # A client's name may hold anything, a slash for instance.
        return self._folder / f"{_digest(client)}.memory"

    def _account(self, session: str, client: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9-]+", "_", client)[:_NAME_MOST]
        run = session if _SESSION.fullmatch(session) else _digest(session)
        return self._folder / f"{name}-{_digest(client)}.{run}{_ACCOUNT}"


def pack(memory: Any) -> bytes:
    """A memory as bytes, without pickle: its tree in the header of a safetensors file."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(to_tree(memory, tensors))
    # The file's own format cannot say that two tensors share their numbers.
    return save({key: tensor.clone() for key, tensor in tensors.items()}, {"tree": tree})


def unpack(data: bytes) -> Any:
    """The memory in some bytes.

    Raises:
        CheckpointError: they are damaged, or were written by another version of igc.
    """
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        tree = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tree"])
        return from_tree(tree, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"damaged ({error})") from error


def _mark(session: str) -> bytes:
    return session.encode() + b"\n"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _damaged(path: Path, error: Exception) -> DamagedError:
    # The server is told, whom the node's folders are no business of.
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return DamagedError(
        f"its account of this run, {path.name} in its node's memory folder, cannot be read: {reason}; without it no round"
        " is answered, for each might be answered a second time: mend the file, or start another run"
    )
