"""Error feedback: clients keep what the codec of their uploads lost, and add it to the next.

Seide et al., Interspeech 2014; Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression schemes",
ICML 2019, algorithm 2 (with the learning rate on the server: the same for a constant one). Around any method whose upload
is one sketch:

    client              p = e + s, s being the method's sketch;  q = Q(a p);  e <- p - q
    client -> server    a p, of which the server reads q

Q is the codec. A codec that is scaled so as to be unbiased may lose more than it was given, and without a, e grow without
end; a sees to ||p - q|| <= ||p||. It begins as <p, Q(p)> / ||Q(p)||^2. Where Q(a p) = a Q(p), to rounding (``lloyd-b``),
that is the best a, and ||p - q|| < ||p||. ``int4``, ``int8``, ``qsgd-b`` and ``eden-b`` have noise that depends on the
values, and draw it anew for a p: a is then halved until the bound holds, which long vectors hardly ever need. Where eight
times are too few it is 0, and all of p is kept.

A client keeps e in the coordinates of the subspace that it sketched in: d numbers, for K-subspace up to K d. Where the
subspace changes (time-varying), e is dropped: of A e, the new subspace holds about a share d / D, which is nothing. An
upload that the server never sees, or refuses, is lost with the e in it, as without error feedback: so is one that is not
finite, or too large for the codec, which is sent as it is and refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS, NotFiniteScaleError
from igc.finite import all_finite
from igc.messages import Message
from igc.methods.worker import Sketch, Worker
from igc.methods.wrapped import Wrapped
from igc.projection import Projection, Term
from igc.records import record

_HALVINGS: Final = 8  # of a; one is seldom needed, and each costs a pass of the codec


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
        found = coded(whole, self.codec)
        if found is None:  # the server will say so; an error that is not finite would spoil all uploads to come
            self.errors.pop(key, None)
            return sketch._replace(vector=whole)
        sent, self.errors[key] = found
        return sketch._replace(vector=sent)


def coded(whole: Tensor, codec: str) -> tuple[Tensor, Tensor] | None:
    """What to send of a vector, a p, and what is lost of p; None: the server refuses it, as not finite."""

    def read_of(factor: float) -> Tensor | None:
        return _read(whole * factor, codec)

    read = _read(whole, codec)
    if read is None:
        return None
    factor, lost = contracted(whole, read, read_of)
    return whole * factor if factor else torch.zeros_like(whole), lost


def contracted(whole: Tensor, read: Tensor, read_of: Callable[[float], Tensor | None]) -> tuple[float, Tensor]:
    """The factor a to send a vector by, 0 for not at all, and what is lost of it, which is no longer than the vector.

    Args:
        whole: p, the vector.
        read: what the server reads of p.
        read_of: a -> what it reads of a p; None: it refuses it.
    """
    fit, length = _fit(whole, read), float(whole.double().norm())
    for halving in range(_HALVINGS + 1):
        factor = fit / 2**halving
        found = read_of(factor)
        if found is not None and float((lost := whole - found).double().norm()) <= length:
            return factor, lost
    return 0.0, whole


def _read(vector: Tensor, codec: str) -> Tensor | None:
    """What the server reads of a vector; None: it refuses it, as not finite."""
    try:
        read = CODECS[codec].decode(CODECS[codec].encode(vector), tuple(vector.shape))
    except NotFiniteScaleError:
        return None
    return read if all_finite(read) else None


def _fit(vector: Tensor, read: Tensor) -> float:
    """The factor that brings what a codec made of a vector nearest to it."""
    square = float(read.double().square().sum())
    along = float(torch.dot(vector.double(), read.double()))
    return along / square if square > 0 and along > 0 else 1.0
