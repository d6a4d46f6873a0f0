"""Error feedback: clients keep what the codec of their uploads lost, and add it to the next.

Seide et al., Interspeech 2014; Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression schemes",
ICML 2019, algorithm 2 (with the learning rate on the server: the same for a constant one). Around any method whose upload
is one sketch:

    client              p = e + s, s being the method's sketch;  q = Q(a p);  e <- p - q
    client -> server    a p, of which the server reads q

Q is the codec, and a = <p, Q(p)> / ||Q(p)||^2 makes it a contraction, ||p - q|| < ||p||, which a codec scaled so as to be
unbiased need not be: without a, e may grow without end.

A client keeps e in the coordinates of the subspace that it sketched in: d numbers, for K-subspace up to K d. Where the
subspace changes (time-varying), e is dropped: of A e, the new subspace holds about a share d / D, which is nothing. An
upload that the server never sees, or refuses, is lost, as without error feedback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS
from igc.messages import Message
from igc.methods.worker import Sketch, Worker
from igc.methods.wrapped import Wrapped
from igc.projection import Projection, Term
from igc.records import record


@record
class Memory:
    """What a client remembers.

    Attributes:
        inner: for the other method.
        epoch: of the subspaces that the errors belong to.
        errors: digest of a projection -> e in its coordinates, (d,).
    """

    inner: Any
    epoch: int = 0
    errors: dict[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class ErrorFeedback(Wrapped):
    """Clients make good what their codec lost.

    Attributes:
        codec: of uploads, as in the agreement.
    """

    codec: str

    @property
    @override
    def own(self) -> dict[str, Any]:
        return {"name": "error-feedback", "codec": self.codec}

    @override
    def at_work(self, worker: Worker) -> Worker:
        return _Correcting(worker, self.codec)

    @override
    def client_init(self) -> Memory:
        return Memory(self.inner.client_init())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        epoch = int(download["epoch"]) if "epoch" in download else 0
        errors = memory.errors if epoch == memory.epoch else {}
        correcting = _Correcting(worker, self.codec, dict(errors))
        inner, tensors = self.inner.upload(memory.inner, download, correcting)
        return Memory(inner, epoch, correcting.errors), tensors

    @override
    def condense(self, memories: Mapping[str, Memory], newest: str) -> Mapping[str, Memory]:
        theirs = {client: memory.inner for client, memory in memories.items()}
        found = self.inner.condense(theirs, newest)
        if found is theirs:
            return memories
        return {client: dataclasses.replace(memory, inner=found[client]) for client, memory in memories.items()}


@dataclass
class _Correcting(Worker):
    """A worker whose sketch is what to send so that the codec loses nothing in the long run."""

    worker: Worker
    codec: str
    errors: dict[str, Tensor] = field(default_factory=dict)

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self.worker.move_(current, settled)

    @override
    def sketch(self, projection: Projection) -> Sketch:
        sketch = self.worker.sketch(projection)
        key = projection.digest.hex()
        kept = self.errors.get(key)
        whole = sketch.vector if kept is None else sketch.vector + kept
        sent = whole * self._contraction(whole)
        self.errors[key] = whole - self._read(sent)
        return sketch._replace(vector=sent)

    def _read(self, vector: Tensor) -> Tensor:
        """What the server reads of a vector."""
        codec = CODECS[self.codec]
        return codec.decode(codec.encode(vector), tuple(vector.shape))

    def _contraction(self, vector: Tensor) -> float:
        """The factor that brings the codec's result nearest to the vector."""
        read = self._read(vector).double()
        square = float(read.square().sum())
        along = float(torch.dot(vector.double(), read))
        return along / square if square > 0 and along > 0 else 1.0
