"""Sparse downlinks: a server that changes a few coordinates a round sends each client those that it missed.

Uncompressed in position: theta = theta_0 + a displacement of D numbers, of which every client keeps a replica.

    server -> client    the coordinates that changed since the client's last confirmed round, with their present values;
                        all D numbers of the displacement where those take fewer bytes
    client              replica <- replica with those put in;  theta = theta_0 + replica

Values are absolute, so that a coordinate that changed ten times is sent once, and a replica equals the server's
displacement bit for bit. An accepted upload confirms that its client holds the download of that round. Every client's
first download brings all that ever changed. Downloads are numbered by their round, from 1; 0 is to hold none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS, CodecError
from igc.codecs.index_set import index_words, pack_indices, unpack_indices
from igc.messages import Message, TensorError
from igc.methods.base import Means, Method, MissedError, Turn
from igc.methods.worker import Worker
from igc.projection import Identity, Term
from igc.records import record


@record
class Position:
    """Where the server stands, and who knows how much of it.

    Attributes:
        displacement: theta - theta_0, (D,).
        changed: (D,) int32: number of the first download that has the coordinate's present value; 0: it never changed.
        known: client -> number of the newest download that it holds, confirmed by an upload.
    """

    displacement: Tensor
    changed: Tensor
    known: dict[str, int]

    @classmethod
    def start(cls, D: int) -> Position:
        """Theta_0."""
        return cls(torch.zeros(D), torch.zeros(D, dtype=torch.int32), {})

    def moved(self, displacement: Tensor, means: Means, round: int) -> Position:
        """The position after a round that led to ``displacement``."""
        changed = torch.where(displacement != self.displacement, round + 2, self.changed)
        return Position(displacement, changed, {**self.known, **dict.fromkeys(means.clients, round + 1)})


@record
class Replica:
    """What a client has of the displacement.

    Attributes:
        number: of the newest download taken in.
        displacement: (D,); None: zero.
    """

    number: int = 0
    displacement: Tensor | None = None


@record
class State:
    """The server's state; methods add to it."""

    position: Position


@record
class Memory:
    """A client's memory; methods add to it."""

    replica: Replica


StateT = TypeVar("StateT", bound=State)
MemoryT = TypeVar("MemoryT", bound=Memory)


@dataclass(frozen=True)
class SparseDownlink(Method[StateT, MemoryT]):
    """What methods with a sparse downlink have in common.

    Attributes:
        down: the codec that values go by, which says what they cost; their indices take four bytes or less each.
    """

    down: str = field(default="float32", kw_only=True, compare=False)
    # The last patch that was made, and the newest replica: clients of one round get the same, and then share it.
    _patch: dict[tuple[int, int], tuple[Tensor, dict[str, Tensor]]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )
    _newest: dict[int, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)

    @override
    def download(self, state: StateT, turn: Turn) -> dict[str, Tensor]:
        position, since = state.position, state.position.known.get(turn.client, 0)
        key = (turn.round, since)
        kept = self._patch.get(key)
        if kept is None or kept[0] is not position.displacement:
            self._patch.clear()
            kept = self._patch[key] = (position.displacement, patch(position, since, self.down))
        return kept[1]

    @override
    def group(self, upload: Message, turn: Turn) -> int:
        return 0

    @override
    def terms(self, state: StateT) -> tuple[list[Term], list[Term]]:
        return [self._term(state.position.displacement)], []

    @override
    def forget(self, state: StateT, client: str) -> StateT:
        position = state.position
        known = {c: n for c, n in position.known.items() if c != client}
        return dataclasses.replace(state, position=dataclasses.replace(position, known=known))

    @override
    def condense(self, memories: Mapping[str, MemoryT], newest: str) -> dict[str, MemoryT]:
        """Every memory with the newest replica in place of its own.

        A patch brings all that changed after the download that it builds on, so that a client gets the same result from
        its own replica and from any newer one: what they differ in is overwritten. (Under a codec that rounds numbers by
        what else is in a message, replicas differ by that rounding, too.)
        """
        replica = memories[newest].replica
        return {
            client: memory
            if memory.replica.displacement is replica.displacement or memory.replica.number > replica.number
            else dataclasses.replace(
                memory, replica=dataclasses.replace(memory.replica, displacement=replica.displacement)
            )
            for client, memory in memories.items()
        }

    def _stand(self, replica: Replica, download: Message, worker: Worker) -> Replica:
        """Take in a download and move the worker's model there.

        Raises:
            MissedError: the download builds on another round than the replica holds.
            TensorError: it does not make sense.
        """
        displacement = _patched(replica, download, self.projection.D, self._newest.get(0))
        self._newest[0] = displacement
        worker.move_([self._term(displacement)])
        return Replica(download.round + 1, displacement)

    def _term(self, displacement: Tensor) -> Term:
        return Term(Identity(D=self.projection.D, d=self.projection.D, seed=0), displacement)


def patch(position: Position, since: int, down: str = "float32") -> dict[str, Tensor]:
    """The tensors that bring a client that holds download number ``since`` to the position, in the fewest bytes.

    Args:
        position: the server's.
        since: number of the download that the client holds; 0: none.
        down: the codec of values.
    """
    D = position.displacement.numel()
    missing = torch.from_numpy(np.flatnonzero((position.changed > since).numpy()))
    n = missing.numel()
    if not n:
        return {"since": torch.tensor(since)}
    length = CODECS[down].length
    if length((n,)) + 4 * index_words(n, D) >= length((D,)):
        return {"since": torch.tensor(since), "displacement": position.displacement}
    return {
        "since": torch.tensor(since),
        "indices": pack_indices(missing, D),
        "values": position.displacement[missing],
    }


def scattered(message: Message, D: int) -> Tensor:
    """A message's ``values`` at its ``indices``, zero elsewhere: float32 (D,).

    Raises:
        TensorError: the indices are no set of as many indices below D as there are values.
    """
    vector = torch.zeros(D)
    vector[_indices(message, D)] = message["values"]
    return vector


def _patched(replica: Replica, download: Message, D: int, newest: Tensor | None) -> Tensor:
    """The displacement that a download brings; ``newest`` itself where it is the same, so that it is held once."""
    if "since" not in download:
        raise TensorError("a download of a sparse downlink says what it builds on; this one does not")
    since = int(download["since"])
    if "displacement" in download:
        whole = download["displacement"]
        if tuple(whole.shape) != (D,):
            raise TensorError(f"'displacement' has shape {tuple(whole.shape)}, due was {(D,)}")
        return _one(whole, newest)
    # On 0 anybody can build: all that ever changed is in it.
    if since and not since <= replica.number <= download.round + 1:
        raise MissedError(f"download {download.round + 1} builds on number {since}, here is {replica.number}")
    base = replica.displacement if since else None
    if "values" not in download:
        return torch.zeros(D) if base is None else base
    places, values = _indices(download, D), download["values"]
    if base is not None and base is newest and torch.equal(newest[places], values):
        return newest
    patched = torch.zeros(D) if base is None else base.clone()
    patched[places] = values
    return _one(patched, newest)


def _one(tensor: Tensor, newest: Tensor | None) -> Tensor:
    return newest if newest is not None and torch.equal(tensor, newest) else tensor


def _indices(message: Message, D: int) -> Tensor:
    if "indices" not in message or "values" not in message or message["values"].dim() != 1:
        raise TensorError("'indices' and 'values' come together, one value an index")
    n = message["values"].numel()
    if not 1 <= n <= D:
        raise TensorError(f"'values' holds {n:,} numbers; the model has {D:,}")
    try:
        return unpack_indices(message["indices"].reshape(-1), n, D)
    except CodecError as error:
        raise TensorError(f"'indices': {error}") from error
