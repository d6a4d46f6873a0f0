"""Burn-in: rounds in a wide random subspace that show where gradients lie, then one of learned and of random directions.

The method that is wrapped, static at heart, first trains in A_0 (D, d_0), then in A = [A_0 U | A'] (D, d), with k learned
columns and d - k fresh random ones, all of one length (`igc.projection.learned`, `igc.projection.columns`):

    first    server -> client    sigma_0                                                  d_0 numbers
             client -> server    A_0^T g                                                  d_0 numbers
             server              sigma_0 steps on the mean s_t, which it keeps
    after so many rounds
             server              U = the k leading right singular vectors of (s_1; s_2; ...), (d_0, k), rounded to 16 bits
    then     server -> client    sigma; U and the final sigma_0, once to each client      d numbers; d_0 (k / 2 + 1) once
             client              theta = theta_0 + A_0 sigma_0 + A sigma
             client -> server    A^T g                                                    d numbers

That gradients of deep networks lie mostly in few directions: Gur-Ari, Roberts and Dyer, "Gradient descent happens in a tiny
subspace", 2018; that the path of training does: Li et al., "Low dimensional trajectory hypothesis is true", TPAMI 2022.

A is linear in sigma, and the same for everybody: averages stay exact. Only the server computes U, and rounds it before
anybody uses it; everybody else takes its bytes as they come, whatever the codecs, so that all have one A. Downloads name U
and sigma_0 by a hash: a client that has lost them, or has others, says so and is sent them again. Rounds without an upload
do not count for the burn-in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS, CodecError
from igc.errors import ProjectionError
from igc.finite import all_finite
from igc.messages import Due, Message, NotFiniteError, TensorError
from igc.methods.base import Means, Method, MissedError, Traffic, Turn
from igc.methods.bits import from_bits, from_words, little_endian, name_of, to_bits, to_words
from igc.methods.worker import Loss, Sketch, Worker
from igc.methods.wrapped import Wrapped
from igc.projection import Columns, Learned, Projection, Term
from igc.projection.learned import leading_directions
from igc.records import record

# What downloads name in place of a basis while there is none.
_BURNING: Final = torch.tensor(0)
# Of directions: half the bytes. It rounds to nearest, so that sums formed in another order give nearly the same ones.
_ROUNDING: Final = CODECS["float16"]


@record
class Basis:
    """What the burn-in left.

    Attributes:
        directions: U^T, (k, d_0), as bytes of the codec float16, uint8.
        origin: the final sigma_0, float32 (d_0,).
        name: 32 bits of a hash of both, not 0.
    """

    directions: Tensor
    origin: Tensor
    name: int

    @classmethod
    def of(cls, directions: Tensor, origin: Tensor) -> Basis:
        """With its name."""
        name = name_of(b"igc-basis", directions.numpy().tobytes(), little_endian(origin))
        return cls(directions, origin, name)

    @classmethod
    def rounded(cls, directions: Tensor, origin: Tensor) -> Basis:
        """With directions U (d_0, k) as they are to be used from then on."""
        return cls.of(torch.frombuffer(bytearray(_ROUNDING.encode(directions.T)), dtype=torch.uint8), origin)


@record
class State:
    """The server's state.

    Attributes:
        inner: the other method's.
        sketches: the mean of each round of the burn-in so far, (d_0,); none after it.
        basis: what it left; None before its end.
        known: clients that have confirmed the basis by an upload, each with 1.
    """

    inner: Any
    sketches: tuple[Tensor, ...] = ()
    basis: Basis | None = None
    known: dict[str, int] = dataclasses.field(default_factory=dict)


@record
class Memory:
    """What a client remembers: for the other method, and the basis once it came."""

    inner: Any
    basis: Basis | None = None


@dataclass(frozen=True)
class BurnIn(Wrapped):
    """Another method, first in a wide subspace, then in learned directions of it and random ones.

    Attributes:
        inner: static, with whatever is around it; of d dimensions. Its own matrix is not used.
        wide: A_0.
        rest: A', of d - k dimensions.
        rounds: of the burn-in, at least k.
    """

    wide: Projection
    rest: Projection
    rounds: int
    _made: dict[int, _Mixed] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        D, d, k = self.projection.D, self.projection.d, self.learned
        if self.wide.D != D or self.rest.D != D:
            raise ProjectionError(f"subspaces of models of {self.wide.D:,}, {self.rest.D:,} and {D:,} parameters")
        if not 1 <= k <= min(self.wide.d, self.rounds):
            raise ProjectionError(
                f"{k} learned directions, of {d} with {self.rest.d} random ones; there is one at least, and no more than"
                f" the {self.wide.d:,} dimensions and the {self.rounds} rounds of the burn-in"
            )

    @property
    def learned(self) -> int:
        """How many, k."""
        return self.projection.d - self.rest.d

    @property
    @override
    def linear(self) -> bool:
        return self.inner.linear

    @property
    @override
    def own(self) -> dict[str, Any]:
        return {"name": "burn-in", "rounds": self.rounds, "wide": self.wide.spec(), "rest": self.rest.spec()}

    @override
    def at_work(self, worker: Worker) -> Worker:
        return worker

    def burning(self) -> Method[Any, Any]:
        """The other method during the burn-in."""
        return self.inner.at(self.wide)

    def mixed(self, basis: Basis) -> _Mixed:
        """The other method after it.

        Raises:
            TensorError: these cannot be directions of the wide subspace.
        """
        if basis.name not in self._made:
            shape = (self.learned, self.wide.d)
            try:
                directions = _ROUNDING.decode(basis.directions.numpy().tobytes(), shape)
                learned = Learned(self.wide, directions.T.contiguous())
            except (CodecError, ProjectionError) as error:
                raise TensorError(f"'directions': {error}") from error
            columns = Columns((learned, self.rest))
            self._made.clear()  # one is enough: all parties have the same
            self._made[basis.name] = _Mixed(self.inner.at(columns), columns, learned, basis)
        return self._made[basis.name]

    @override
    def init(self) -> State:
        return State(self.burning().init())

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        if state.basis is None:
            return {**self.burning().download(state.inner, turn), "basis": _BURNING}
        mixed = self.mixed(state.basis)
        tensors = {**mixed.method.download(state.inner, turn), "basis": mixed.named}
        return tensors if turn.client in state.known else {**tensors, **mixed.sent}

    @override
    def client_init(self) -> Memory:
        return Memory(self.inner.client_init())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        if "basis" not in download or download["basis"].dim() or download["basis"].is_floating_point():
            raise TensorError("a download of a method with a burn-in names its 'basis'; this one does not")
        name = int(download["basis"])
        basis = self._received(download) if "directions" in download else memory.basis
        if (0 if basis is None else basis.name) != name:
            if name:
                raise MissedError("the download builds on directions that are not known here")
            basis = None  # a server that went back to a checkpoint
        before = 0 if memory.basis is None else memory.basis.name
        theirs = memory.inner if before == name else self.inner.client_init()  # in coordinates of another subspace
        if basis is None:
            self._check(download, "sigma", (self.wide.d,))
            inner, tensors = self.burning().upload(theirs, download, worker)
        else:
            mixed = self.mixed(basis)
            self._check(download, "sigma", (self.projection.d,))
            inner, tensors = mixed.method.upload(theirs, download, _Placed(worker, mixed))
        return Memory(inner, basis), tensors

    def _received(self, download: Message) -> Basis:
        """The basis that a download brings.

        Raises:
            TensorError: it is none, or another than the download names.
        """
        length = _ROUNDING.length((self.learned, self.wide.d))
        for name, size in (("directions", -(-length // 4)), ("origin", self.wide.d)):
            self._check(download, name, (size,))
            if download[name].is_floating_point():
                raise TensorError(f"'{name}' must hold whole numbers, the bits of what is meant")
        origin = from_bits(download["origin"])
        if not all_finite(origin):
            raise NotFiniteError("'origin' holds NaN or infinity")
        basis = Basis.of(from_words(download["directions"], length), origin)
        if basis.name != int(download["basis"]):
            raise TensorError(f"'basis' is {int(download['basis'])}; the one that came is {basis.name}")
        return basis

    @staticmethod
    def _check(download: Message, name: str, shape: tuple[int, ...]) -> None:
        found = tuple(download[name].shape) if name in download else "none"
        if found != shape:
            raise TensorError(f"'{name}' has shape {found}, due was {shape}")

    @override
    def due_in(self, state: State) -> dict[str, Due]:
        return self.burning().due() if state.basis is None else self.due()

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if state.basis is not None:
            known = state.known if means is None else {**state.known, **dict.fromkeys(means.clients, 1)}
            inner = self.mixed(state.basis).method.update(state.inner, means, round, learning_rate)
            return State(inner, (), state.basis, known)
        burning = self.burning()
        inner = burning.update(state.inner, means, round, learning_rate)
        if means is None:
            return State(inner, state.sketches)
        # Some methods' means have more behind the sketch.
        sketches = (*state.sketches, means.groups[0][: self.wide.d].clone())
        if len(sketches) < self.rounds:
            return State(inner, sketches)
        ((_, origin),), _ = burning.terms(inner)
        basis = Basis.rounded(leading_directions(torch.stack(sketches), self.learned), origin)
        return State(self.mixed(basis).method.init(), (), basis)

    @override
    def terms(self, state: State) -> tuple[list[Term], list[Term]]:
        if state.basis is None:
            return self.burning().terms(state.inner)
        mixed = self.mixed(state.basis)
        current, settled = mixed.method.terms(state.inner)
        return mixed.plainly(current), settled

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        """The other method's, and the basis once; a participation in the burn-in, d_0 numbers both ways, counts as one."""
        traffic = self.inner.traffic(participations, epochs)
        once = self.wide.d + -(-self.wide.d * self.learned // 2) if participations else 0
        down = None if traffic.down is None else traffic.down + once
        return traffic._replace(down=down, explored=self.wide.d + self.rest.d)

    @override
    def forget(self, state: State, client: str) -> State:
        known = {other: one for other, one in state.known.items() if other != client}
        return dataclasses.replace(state, inner=self.inner.forget(state.inner, client), known=known)

    @override
    def condense(self, memories: Mapping[str, Memory], newest: str) -> Mapping[str, Memory]:
        theirs = {client: memory.inner for client, memory in memories.items()}
        found = self.inner.condense(theirs, newest)
        if found is theirs:
            return memories
        return {client: dataclasses.replace(memory, inner=found[client]) for client, memory in memories.items()}


@dataclass(frozen=True)
class _Mixed:
    """The other method in [A_0 U | A'], and what the server sends of it."""

    method: Method[Any, Any]
    columns: Columns
    learned: Learned
    basis: Basis

    # The same tensors for everybody: what is the same is encoded once.

    @cached_property
    def named(self) -> Tensor:
        """What every download says."""
        return torch.tensor(self.basis.name)

    @cached_property
    def sent(self) -> dict[str, Tensor]:
        """What a client's first download has besides."""
        return {"directions": to_words(self.basis.directions), "origin": to_bits(self.basis.origin)}

    def plainly(self, terms: Sequence[Term]) -> list[Term]:
        """Theta - theta_0 where the other method puts ``terms``, as terms of A_0 and A' alone, which specs can name.

        A_0 sigma_0 + A sigma = A_0 (sigma_0 + c_1 U sigma_1) + c_2 A' sigma_2: one product with A_0, not two.
        """
        wide, rest = self.basis.origin, torch.zeros(self.columns.parts[1].d)
        for term in terms:
            first, second = self.columns.split(term.sigma)
            wide, rest = wide + self.learned.lifted(first), rest + second
        return [Term(self.learned.base, wide), Term(self.columns.parts[1], rest)]


@dataclass(frozen=True)
class _Placed(Worker):
    """A worker that begins where the burn-in ended."""

    worker: Worker
    mixed: _Mixed

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        self.worker.move_(self.mixed.plainly(current), settled)

    @override
    def sketch(self, projection: Projection) -> Sketch:
        return self.worker.sketch(projection)

    @override
    def loss(self) -> Loss:
        return self.worker.loss()

    @override
    def batches(self, size: int | None, epochs: int) -> Sequence[Worker]:
        return [_Placed(worker, self.mixed) for worker in self.worker.batches(size, epochs)]
