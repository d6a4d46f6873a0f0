"""Time-varying intrinsic gradient compression: fresh matrices in every epoch.

Melas-Kyriazi and Wang, FL4NLP 2022, algorithm "time-varying"; METHOD.md, section 2. Within an epoch it is another method
(static, or K-subspace for "K-subspace + time-varying"), run over matrices of that epoch. With the static method:

    server -> client    sigma_e, and the finals that the client lacks    2 d numbers, if it took part in epoch e - 1
    client              theta = theta_0 + sum_{j<e} A_j sigma_j^final + A_e sigma_e;  g = gradient of its batch at theta
    client -> server    A_e^T g                                          d numbers
    server              sigma_e steps on the mean; after the epoch it is final, and sigma_{e+1} = 0

An epoch ends after a number of rounds, one pass over the clients in the paper, or where the loss has come to a plateau;
only the server needs to know, since downloads name their epoch. Moments of its optimizer start anew, or carry over.

A client that missed epochs gets every final it lacks, but never more bytes of them than D numbers take: past that, it gets
their sum sum_{j<e} A_j sigma_j^final itself, theta at the start of the epoch less theta_0.

What is over is not sent anew, so that no later download mends what a codec made of it. A final is therefore rounded once,
by the server, which goes on from the rounded one; its bytes go to everybody as they are, and a sum as binary32: all stand
on one theta, whenever they come, whatever the codec.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS, Codec, CodecError, NotFiniteScaleError
from igc.finite import all_finite
from igc.messages import Due, Message, NotFiniteError, TensorError
from igc.methods import k_subspace, static
from igc.methods.base import Means, Method, MissedError, Traffic, Turn
from igc.methods.bits import from_bits, from_words, to_bits, to_words
from igc.methods.plateau import Plateau
from igc.methods.worker import Sketch, Worker
from igc.optim import Carry, carried
from igc.projection import Identity, Projection, Term
from igc.projection.theta import displacement
from igc.records import record

Inner = static.Static | k_subspace.KSubspace
InnerState = static.State | k_subspace.State


@record
class State:
    """The server's state.

    Attributes:
        finals: final sigma of each epoch that is over, as rounded.
        coded: their bytes, uint8.
        inner: state of the epoch at hand, number ``len(finals)``.
        known: client -> the number of finals, from the first, that it has confirmed by an upload.
        began: the round in which the epoch at hand began.
        losses: the newest of its rounds, as many as the plateau rule looks at.
    """

    finals: tuple[Tensor, ...]
    coded: tuple[Tensor, ...]
    inner: InnerState
    known: dict[str, int]
    began: int = 0
    losses: tuple[float, ...] = ()


@record
class Memory:
    """What a client has of the epochs that are over.

    Attributes:
        base: sum of A_j sigma_j^final over the first ``base_epochs`` epochs, (D,), if it came whole.
        base_epochs: how many epochs ``base`` stands for.
        finals: final sigma of each epoch after those.
    """

    base: Tensor | None = None
    base_epochs: int = 0
    finals: tuple[Tensor, ...] = ()

    @property
    def epochs(self) -> int:
        """How many epochs, from the first, are known."""
        return self.base_epochs + len(self.finals)


@dataclass(frozen=True)
class TimeVarying(Method[State, Memory]):
    """Another method within each epoch, over matrices of that epoch.

    Attributes:
        inner: the method within an epoch.
        rounds_per_epoch: rounds that one set of matrices serves; one pass over the clients in the paper. With ``plateau``
            at most so many; None: no limit.
        plateau: change matrices where the loss has stopped falling.
        carry: what becomes of the moments of the server's optimizer at a change.
        down: the codec that finals go by.
    """

    inner: Inner
    rounds_per_epoch: int | None
    plateau: Plateau | None = None
    carry: Carry = "reset"
    down: str = "float32"
    _sums: dict[int, tuple[tuple[Tensor, ...], Tensor]] = field(default_factory=dict, compare=False, repr=False)

    linear: ClassVar[bool] = True

    @property
    @override
    def projection(self) -> Projection:
        return self.inner.projection

    @property
    @override
    def settings(self) -> dict[str, Any]:
        rule = {} if self.plateau is None else {"plateau": self.plateau.settings}
        name = {"name": "time-varying", "rounds_per_epoch": self.rounds_per_epoch}
        return {**name, **rule, "inner": self.inner.settings}

    def during(self, epoch: int) -> Inner:
        """The method of one epoch, counted from 0; the first has the inner method's own matrices."""
        return self.inner.at(self.projection.child(epoch))

    @override
    def init(self) -> State:
        return State((), (), self.inner.init(), {})

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        epoch = len(state.finals)
        tensors = {**self.during(epoch).download(state.inner, turn), "epoch": torch.tensor(epoch)}  # type: ignore[arg-type]
        missing = state.coded[state.known.get(turn.client, 0) :]
        if sum(-(-data.numel() // 4) for data in missing) > self.projection.D:  # in words of four bytes
            tensors["displacement"] = to_bits(self._displacement(state.finals))
        elif missing:
            tensors["finals"] = torch.stack([to_words(data) for data in missing])
        return tensors

    @override
    def client_init(self) -> Memory:
        return Memory()

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        memory = self._learn(memory, download)
        settled = self._settled(memory.finals, memory.base_epochs)
        if memory.base is not None:
            D = self.projection.D
            settled.insert(0, Term(Identity(D=D, d=D, seed=0), memory.base))
        inner = self.during(memory.epochs)
        _, tensors = inner.upload(inner.client_init(), download, _Ahead(worker, settled))
        return memory, tensors

    @override
    def due(self) -> dict[str, Due]:
        return self.inner.due()

    @override
    def group(self, upload: Message, turn: Turn) -> int:
        return self.inner.group(upload, turn)

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        epoch = len(state.finals)
        known = state.known if means is None else {**state.known, **dict.fromkeys(means.clients, epoch)}
        inner = self.inner.update(state.inner, means, round, learning_rate)  # type: ignore[arg-type]
        losses = state.losses
        if self.plateau is not None and means is not None:
            losses = (*losses, means.loss)[-self.plateau.window :]
        if not self._over(state.began, round, losses):
            return State(state.finals, state.coded, inner, known, state.began, losses)
        final, data = self._rounded(inner.sigma)
        fresh = self.inner.init()
        fresh = dataclasses.replace(fresh, optimizer=carried(inner.optimizer, fresh.optimizer, self.carry))
        return State((*state.finals, final), (*state.coded, data), fresh, known, round + 1)

    def _rounded(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """A final as it counts from then on, and its bytes."""
        data = self._codec.encode(sigma.cpu())
        try:
            final = self._codec.decode(data, tuple(sigma.shape)).to(sigma.device)
        except NotFiniteScaleError:  # clients find that it is not, and say so
            final = sigma
        return final, torch.frombuffer(bytearray(data), dtype=torch.uint8)

    @property
    def _codec(self) -> Codec:
        return CODECS[self.down]

    def _over(self, began: int, round: int, losses: tuple[float, ...]) -> bool:
        """Whether the epoch that began so ends with this round."""
        most = self.rounds_per_epoch
        if most is not None and round + 1 - began >= most:
            return True
        return self.plateau is not None and self.plateau.reached(losses)

    @override
    def began(self, state: State) -> int:
        return state.began

    @override
    def forget(self, state: State, client: str) -> State:
        return dataclasses.replace(state, known={c: n for c, n in state.known.items() if c != client})

    @override
    def terms(self, state: State) -> tuple[list[Term], list[Term]]:
        return self.during(len(state.finals)).terms_of(state.inner.sigma), self._settled(state.finals)

    @override
    def at(self, projection: Projection) -> TimeVarying:
        return dataclasses.replace(self, inner=self.inner.at(projection), _sums={})

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        within = self.inner.traffic(participations, 1)
        assert within.down is not None
        return Traffic(up=within.up, down=2 * within.down, explored=within.explored * epochs)

    def _learn(self, memory: Memory, download: Message) -> Memory:
        """The memory with what a download brings of the epochs before its own.

        A server that missed an upload of ours sends again what we know: the newer copy replaces the older.
        """
        if "epoch" not in download:
            raise TensorError("a download of the time-varying method names its epoch; this one does not")
        epoch = int(download["epoch"])
        if "displacement" in download:
            return Memory(self._finite("displacement", from_bits(_words(download, "displacement"))), epoch)
        finals = self._finals(download) if "finals" in download else ()
        first = epoch - len(finals)
        if first == 0:  # anybody can build on theta_0, whatever a server told them that has since gone back
            return Memory(finals=finals)
        if not memory.base_epochs <= first <= memory.epochs:
            raise MissedError(f"the download builds on {first} past epochs, {memory.epochs} are known here")
        return dataclasses.replace(memory, finals=memory.finals[: first - memory.base_epochs] + finals)

    def _finals(self, download: Message) -> tuple[Tensor, ...]:
        words, shape = _words(download, "finals"), tuple(self.inner.init().sigma.shape)
        length = self._codec.length(shape)
        if words.dim() != 2 or words.shape[1] != -(-length // 4):
            raise TensorError(f"'finals' has shape {tuple(words.shape)}, due were rows of {-(-length // 4):,} words")
        try:
            found = [self._codec.decode(from_words(row, length).numpy().data, shape) for row in words]
        except NotFiniteScaleError as error:
            raise NotFiniteError("'finals' holds NaN or infinity") from error
        except CodecError as error:
            raise TensorError(f"'finals': {error}") from error
        return tuple(self._finite("finals", final) for final in found)

    @staticmethod
    def _finite(name: str, tensor: Tensor) -> Tensor:
        if not all_finite(tensor):
            raise NotFiniteError(f"'{name}' holds NaN or infinity")
        return tensor

    def _settled(self, finals: Sequence[Tensor], first: int = 0) -> list[Term]:
        return [term for epoch, sigma in enumerate(finals, first) for term in self.during(epoch).terms_of(sigma)]

    def _displacement(self, finals: tuple[Tensor, ...]) -> Tensor:
        # Every client of an epoch that is sent the sum is sent the same; one is kept.
        kept = self._sums.get(0)
        if kept is None or kept[0] is not finals:
            kept = self._sums[0] = (finals, displacement(self._settled(finals), self.projection.D))
        return kept[1]


def _words(download: Message, name: str) -> Tensor:
    if download[name].is_floating_point():
        raise TensorError(f"'{name}' must hold whole numbers, the bits of what is meant")
    return download[name]


@dataclass(frozen=True)
class _Ahead(Worker):
    """A worker whose moves all begin with some settled terms."""

    worker: Worker
    settled: list[Term]

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self.worker.move_(current, [*self.settled, *settled])

    @override
    def sketch(self, projection: Projection) -> Sketch:
        return self.worker.sketch(projection)
