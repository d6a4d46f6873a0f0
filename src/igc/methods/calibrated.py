"""Calibration: a first round in which clients say how large the gradient of each tensor is, and a subspace scaled to that.

The method that is wrapped then trains in A = diag(w) A' in place of A' (`igc.projection.scaled`; METHOD.md, section 3):

    round 0    client -> server    the mean square of its batch's gradient at theta_0, tensor by tensor        L numbers
               server              w_l = (weighted mean of them)_l^(p / 2), brought to a mean square of 1, not below a floor
                                   (p < 0: a tensor with hardly any gradient counts as one with a little)
    then       server -> client    w, once to each client, whenever it first takes part                        L numbers

L is the number of tensors. Only the server computes w; everybody else takes its bits as they come, so that all have one A.
Until an upload has come, each round is round 0. Both vectors go as the bits of binary32, which no lossy codec touches.
Downloads name w by a hash, since the digest in headers is that of A': a client that has lost w, or has another, as after a
server that calibrated anew, says so and is sent it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from igc.errors import ProjectionError
from igc.finite import all_finite
from igc.messages import Due, Message, NotFiniteError, TensorError
from igc.methods.base import REPORT, Means, Method, MissedError, Traffic, Turn
from igc.methods.bits import from_bits, little_endian, name_of, to_bits
from igc.methods.worker import Worker
from igc.methods.wrapped import Wrapped
from igc.projection import Projection, Scaled, Term
from igc.projection.scaled import normalised, powers
from igc.records import record


@record
class State:
    """The server's state.

    Attributes:
        inner: the other method's.
        weights: w, float32 (L,); None before the calibration.
        known: clients that have confirmed w by an upload, each with 1.
    """

    inner: Any
    weights: Tensor | None = None
    known: dict[str, int] = dataclasses.field(default_factory=dict)


@record
class Memory:
    """What a client remembers: for the other method, and w (L,) once it came."""

    inner: Any
    weights: Tensor | None = None


def name_of_weights(weights: Tensor) -> int:
    """What downloads call w, (L,)."""
    return name_of(b"igc-scale", little_endian(weights))


@dataclass(frozen=True)
class Calibrated(Wrapped):
    """Another method, in a subspace that is scaled by the gradients of a first round.

    Attributes:
        sizes: elements of each tensor, in the order of the space.
        exponent: p; 1 makes w proportional to the root mean square of each tensor's gradient, 0 leaves all as it is, and
            -0.5 makes a step move each tensor by its gradient over that root mean square, as Adam would.
        floor: the least w, as a share of its root mean square; of a negative exponent the least root mean square of a
            tensor's gradient, as a share of all tensors', too.
    """

    sizes: tuple[int, ...]
    exponent: float = 1.0
    floor: float = 0.01
    _made: dict[bytes, Method[Any, Any]] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    @override
    def linear(self) -> bool:
        return self.inner.linear  # but for the calibration, which says so itself: see `Worker.energies`

    @property
    @override
    def own(self) -> dict[str, Any]:
        return {"name": "calibrated", "exponent": self.exponent, "floor": self.floor}

    @override
    def at_work(self, worker: Worker) -> Worker:
        return worker

    def scaled(self, weights: Tensor) -> Method[Any, Any]:
        """The other method over diag(w) A'.

        Raises:
            TensorError: these cannot be the weights of this space.
        """
        key = weights.numpy().tobytes()
        if key not in self._made:
            try:
                projection = Scaled(self.projection, self.sizes, tuple(weights.tolist()))
            except ProjectionError as error:
                raise TensorError(f"'scale': {error}") from error
            self._made.clear()  # one is enough: all parties have the same
            self._made[key] = self.inner.at(projection)
        return self._made[key]

    @override
    def init(self) -> State:
        return State(self.inner.init())

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        if state.weights is None:
            return {"calibrate": torch.tensor(1)}
        inner = self.scaled(state.weights).download(state.inner, turn)
        tensors = {**inner, "scaling": torch.tensor(name_of_weights(state.weights))}
        return tensors if turn.client in state.known else {**tensors, "scale": to_bits(state.weights)}

    @override
    def client_init(self) -> Memory:
        return Memory(self.inner.client_init())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        if "calibrate" in download:
            worker.move_([])
            found = worker.energies()
            return memory, {
                "energies": to_bits(found.vector),
                "weight": torch.tensor(found.weight),
                "loss": torch.tensor(found.loss),
            }
        if "scaling" not in download or download["scaling"].dim() or download["scaling"].is_floating_point():
            raise TensorError("a download of a calibrated method names w in 'scaling'; this one does not")
        name = int(download["scaling"])
        known = memory.weights is not None and name_of_weights(memory.weights) == name
        weights = self._received(download, name) if "scale" in download else memory.weights if known else None
        if weights is None:
            raise MissedError("the download builds on weights that are not known here")
        theirs = memory.inner if known else self.inner.client_init()  # in coordinates of another subspace
        inner, tensors = self.scaled(weights).upload(theirs, download, worker)
        return Memory(inner, weights), tensors

    def _received(self, download: Message, name: int) -> Tensor:
        """The w that a download brings.

        Raises:
            TensorError: it is none, or another than the download names.
        """
        if tuple(download["scale"].shape) != (len(self.sizes),):
            raise TensorError(f"'scale' has shape {tuple(download['scale'].shape)}, due was {(len(self.sizes),)}")
        weights = from_bits(download["scale"])
        if name_of_weights(weights) != name:
            raise TensorError(f"'scaling' is {name}; the 'scale' that came is {name_of_weights(weights)}")
        return weights

    @override
    def due_in(self, state: State) -> dict[str, Due]:
        if state.weights is None:
            return {"energies": Due((len(self.sizes),), whole=True), **REPORT}
        return self.inner.due_in(state.inner)

    @override
    def group(self, upload: Message, turn: Turn) -> int:
        return 0 if "energies" in upload else self.inner.group(upload, turn)

    @override
    def contribution(self, upload: Message) -> Tensor:
        if "energies" not in upload:
            return self.inner.contribution(upload)
        energies = from_bits(upload["energies"])
        if not all_finite(energies):
            raise NotFiniteError("'energies' holds NaN or infinity")
        if bool((energies < 0).any()):
            raise TensorError(f"'energies' holds {float(energies.min()):g}; a mean square is not negative")
        return energies

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if state.weights is None:
            return state if means is None else dataclasses.replace(state, weights=self.weights_of(means.groups[0]))
        known = state.known if means is None else {**state.known, **dict.fromkeys(means.clients, 1)}
        inner = self.scaled(state.weights).update(state.inner, means, round, learning_rate)
        return State(inner, state.weights, known)

    def weights_of(self, energies: Tensor) -> Tensor:
        """W, float32 (L,), for mean squares of the gradient, (L,)."""
        raw = powers(self.sizes, energies.double().tolist(), self.exponent, self.floor)
        return torch.tensor(normalised(self.sizes, raw, self.floor))

    @override
    def terms(self, state: State) -> tuple[list[Term], list[Term]]:
        return ([], []) if state.weights is None else self.scaled(state.weights).terms(state.inner)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        """The other method's, and w once; nothing is added for the calibration, in which a client hardly takes part."""
        traffic = self.inner.traffic(participations, epochs)
        once = len(self.sizes) if participations else 0
        return traffic._replace(down=None if traffic.down is None else traffic.down + once)

    @override
    def at(self, projection: Projection) -> Calibrated:
        return dataclasses.replace(self, inner=self.inner.at(projection))

    @override
    def began(self, state: State) -> int:
        return self.inner.began(state.inner)

    @override
    def forget(self, state: State, client: str) -> State:
        known = {other: one for other, one in state.known.items() if other != client}
        return State(self.inner.forget(state.inner, client), state.weights, known)

    @override
    def condense(self, memories: Mapping[str, Memory], newest: str) -> Mapping[str, Memory]:
        theirs = {client: memory.inner for client, memory in memories.items()}
        found = self.inner.condense(theirs, newest)
        if found is theirs:
            return memories
        return {client: dataclasses.replace(memory, inner=found[client]) for client, memory in memories.items()}
