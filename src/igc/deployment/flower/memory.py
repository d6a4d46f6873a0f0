"""What clients remember, on their node: in the context that Flower keeps for it, or in a folder of its own.

Flower keeps a context for as long as the SuperNode lives and the run goes on. A folder survives both: a SuperNode that
was started anew, and a run that was resumed. Either may be lost without harm: a client that lacks what a download builds
on says so, and is sent all of it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Protocol, final

from flwr.app import ConfigRecord, RecordDict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from igc.errors import CheckpointError
from igc.files import write_atomically
from igc.records import from_tree, to_tree

PREFIX: Final = "igc.memory."


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
        return unpack(data) if isinstance(data, bytes) else None

    def put(self, session: str, client: str, memory: Any) -> None:
        """Remember until the SuperNode or the run ends."""
        self._state[PREFIX + client] = ConfigRecord({"session": session, "memory": pack(memory)})


@final
class FolderMemories:
    """Memories in files, one a client; those of another session are replaced.

    Args:
        folder: of this node alone; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, session: str, client: str) -> Any:
        """What a client remembers."""
        try:
            data = self._path(client).read_bytes()
        except OSError:
            return None
        mark = session.encode() + b"\n"
        return unpack(data.removeprefix(mark)) if data.startswith(mark) else None

    def put(self, session: str, client: str, memory: Any) -> None:
        """Remember for good.

        Raises:
            OSError: the disk failed.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(client), session.encode() + b"\n" + pack(memory))

    def _path(self, client: str) -> Path:
        # A client's name may hold anything, a slash for instance.
        return self._folder / f"{hashlib.blake2b(client.encode(), digest_size=16).hexdigest()}.memory"


def pack(memory: Any) -> bytes:
    """A memory as bytes, without pickle: its tree in the header of a safetensors file."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(to_tree(memory, tensors))
    # The file's own format cannot say that two tensors share their numbers.
    return save({key: tensor.clone() for key, tensor in tensors.items()}, {"tree": tree})


def unpack(data: bytes) -> Any:
    """The memory in some bytes; None where they cannot be read, which is as good as lost."""
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        tree = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tree"])
        return from_tree(tree, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, CheckpointError):
        return None
