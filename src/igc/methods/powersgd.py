"""PowerSGD: each matrix of the gradient as a product of two thin ones, by one step of power iteration a round.

Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for distributed optimization", NeurIPS
2019, algorithms 1 and 2.

    server -> client    displacement theta - theta_0; the matrices Q, orthonormal columns     D and sum m r numbers
    client              M = a matrix of (e + gradient), n x m;  P = orthonormal basis of M Q;  Q' = M^T P;  e <- M - P Q'^T
    client -> server    P, Q', and the tensors that are no matrix, whole                      sum (n + m) r and the rest
    server              displacement steps on weighted_mean(P Q'^T);  Q <- orthonormal basis of weighted_mean(Q')

The paper's workers average P before they make it orthonormal, and Q' after: two exchanges a round. Clients of a federation
answer once, so each takes its own P, as the paper's workers do where there is one. Signs are fixed (P's along M Q), so that
the Q' of different clients point the same way and their mean is a step of power iteration on all of them.

e is what the server does not read: with a lossy codec, P and Q' are what it makes of them. What it loses of P and of Q' is
multiplied, and might be more than there was, so that e grows without end; clients send a Q' in place of Q', and a times the
tensors that are no matrix, with an a that sees to it (`igc.methods.error_feedback`).

A client keeps e, D numbers, and uploads are taken to arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS, NotFiniteScaleError
from igc.errors import ProjectionError
from igc.finite import all_finite
from igc.messages import Due, Message, as_read
from igc.methods.base import REPORT, Means, Method, Traffic, Turn
from igc.methods.error_feedback import contracted
from igc.methods.worker import Worker
from igc.optim import OptimizerState, ServerOptimizer
from igc.projection import Identity, Projection, Term
from igc.projection.signs import normals
from igc.records import record


@record
class State:
    """The server's state.

    Attributes:
        displacement: theta - theta_0, (D,).
        right: Q of all matrices, end to end.
        optimizer: the server optimizer's moments.
    """

    displacement: Tensor
    right: Tensor
    optimizer: OptimizerState


@record
class Memory:
    """A client's memory.

    Attributes:
        error: e, what its uploads left out, (D,); None: zero.
    """

    error: Tensor | None = None


class Matrix(NamedTuple):
    """A tensor's place as a matrix: its first axis by all others.

    Attributes:
        start: its first coordinate.
        left: where its P begins among all P.
        right: where its Q begins among all Q.
    """

    start: int
    rows: int
    columns: int
    rank: int
    left: int
    right: int

    def whole(self, flat: Tensor) -> Tensor:
        """M, (rows, columns), a view into the gradient (D,)."""
        return flat[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)

    def of_left(self, packed: Tensor) -> Tensor:
        """P, (rows, rank), a view."""
        return packed[self.left : self.left + self.rows * self.rank].view(self.rows, self.rank)

    def of_right(self, packed: Tensor) -> Tensor:
        """Q, (columns, rank), a view."""
        return packed[self.right : self.right + self.columns * self.rank].view(self.columns, self.rank)


@dataclass(frozen=True)
class PowerSgd(Method[State, Memory]):
    """Low-rank gradients.

    Attributes:
        shapes: of the trained tensors, in order.
        optimizer: the server's.
        rank: r, at most; a tensor whose P and Q would not be smaller than itself is sent whole, vectors always.
        error_feedback: clients add to their gradient what their uploads left out.
        seed: of the first Q.
        up: the codec that uploads go by; with error feedback, what it loses was left out.
    """

    shapes: tuple[tuple[int, ...], ...]
    optimizer: ServerOptimizer
    rank: int = 4
    error_feedback: bool = True
    seed: int = 0
    up: str = "float32"

    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ProjectionError(f"rank = {self.rank}; matrices of rank 1 or more are needed")

    @property
    @override
    def projection(self) -> Projection:
        D = sum(math.prod(shape) for shape in self.shapes)
        return Identity(D=D, d=D, seed=0)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"name": "powersgd", "rank": self.rank, "error_feedback": self.error_feedback}

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        """What is sent as P and Q."""
        found: list[Matrix] = []
        start = left = right = 0
        for shape in self.shapes:
            rows, columns = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
            rank = min(rows, columns, self.rank)
            if (rows + columns) * rank < rows * columns:
                found.append(Matrix(start, rows, columns, rank, left, right))
                left, right = left + rows * rank, right + columns * rank
            start += math.prod(shape)
        return tuple(found)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many numbers an upload holds of each kind, those that are none left out."""
        left = sum(m.rows * m.rank for m in self.matrices)
        right = sum(m.columns * m.rank for m in self.matrices)
        rest = self.projection.D - sum(m.rows * m.columns for m in self.matrices)
        return {name: n for name, n in {"left": left, "right": right, "rest": rest}.items() if n}

    @override
    def init(self) -> State:
        displacement = torch.zeros(self.projection.D)
        drawn = normals(self.seed, 0, self.sizes.get("right", 0)).to(torch.float32)
        return State(displacement, self._orthonormal(drawn, drawn), self.optimizer.init(displacement))

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        tensors = {"displacement": state.displacement}
        return {**tensors, "right": state.right} if self.matrices else tensors

    @override
    def client_init(self) -> Memory:
        return Memory()

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        worker.move_(self._terms(download["displacement"]))
        sketch = worker.sketch(self.projection)
        total = sketch.vector if memory.error is None else sketch.vector + memory.error
        tensors = {name: torch.empty(size) for name, size in self.sizes.items()}
        for m in self.matrices:
            M, Q = m.whole(total), m.of_right(download["right"])
            P = orthonormal(M @ Q)
            m.of_left(tensors["left"]).copy_(P)
            torch.mm(M.T, P, out=m.of_right(tensors["right"]))
        if "rest" in tensors:
            torch.cat([total[begin:end] for begin, end in self._gaps()], out=tensors["rest"])
        if self.error_feedback:
            tensors, error = self._coded(total, tensors)
            # One that is not finite would spoil all uploads to come.
            memory = Memory(error if all_finite(error) else None)
        tensors |= {"weight": torch.tensor(sketch.weight), "loss": torch.tensor(sketch.loss)}
        return memory, tensors

    def _coded(self, total: Tensor, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """What to send of an upload, and what the server does not read of the gradient that it stands for."""

        def scaled(factor: float) -> dict[str, Tensor]:
            return {name: tensor if name == "left" else tensor * factor for name, tensor in tensors.items()}

        read = None if CODECS[self.up].lossless else self._read(tensors)
        if read is None:
            return tensors, total - self._sum(tensors)
        factor, lost = contracted(total, read, lambda factor: self._read(scaled(factor)))
        return scaled(factor), lost

    def _read(self, tensors: dict[str, Tensor]) -> Tensor | None:
        """The gradient (D,) that the server reads in an upload; None: it refuses it, as not finite."""
        try:
            read = self._sum(as_read(tensors, self.up))
        except NotFiniteScaleError:
            return None
        return read if all_finite(read) else None

    @override
    def due(self) -> dict[str, Due]:
        return {**{name: Due((size,)) for name, size in self.sizes.items()}, **REPORT}

    @override
    def group(self, upload: Message, turn: Turn) -> int:
        return 0

    @override
    def contribution(self, upload: Message) -> Tensor:
        """P Q'^T with all that came whole (D,), and Q' behind it."""
        low_rank = self._sum(upload.tensors)
        return torch.cat([low_rank, upload["right"]]) if self.matrices else low_rank

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        if means is None:
            return state
        mean, right = torch.split(means.groups[0], [self.projection.D, len(state.right)])
        optimizer, displacement = self.optimizer.update(state.optimizer, state.displacement, mean, learning_rate)
        return State(displacement, self._orthonormal(right, state.right), optimizer)

    @override
    def terms(self, state: State) -> tuple[list[Term], list[Term]]:
        return self._terms(state.displacement), []

    @override
    def at(self, projection: Projection) -> PowerSgd:
        return self

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        D, up = self.projection.D, sum(self.sizes.values())
        down = D + self.sizes.get("right", 0)
        return Traffic(up=up * participations, down=down * participations, explored=D)

    def _terms(self, displacement: Tensor) -> list[Term]:
        return [Term(self.projection, displacement)]

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Ranges of coordinates that are sent whole."""
        at = 0
        for m in self.matrices:
            if at < m.start:
                yield at, m.start
            at = m.start + m.rows * m.columns
        if at < self.projection.D:
            yield at, self.projection.D

    def _sum(self, tensors: Any) -> Tensor:
        """The gradient (D,) that an upload stands for."""
        flat = torch.empty(self.projection.D)
        for m in self.matrices:
            torch.mm(m.of_left(tensors["left"]), m.of_right(tensors["right"]).T, out=m.whole(flat))
        at = 0
        for begin, end in self._gaps():
            flat[begin:end] = tensors["rest"][at : at + end - begin]
            at += end - begin
        return flat

    def _orthonormal(self, right: Tensor, otherwise: Tensor) -> Tensor:
        """Every Q with orthonormal columns; that of ``otherwise`` where the gradient of a matrix is zero."""
        out = torch.empty_like(right)
        for m in self.matrices:
            Q = m.of_right(right)
            m.of_right(out).copy_(orthonormal(Q) if bool(Q.any()) else m.of_right(otherwise))
        return out


def orthonormal(matrix: Tensor) -> Tensor:
    """Orthonormal columns that span those of ``matrix`` (n, r), r <= n, as Gram-Schmidt would give them.

    LAPACK's QR, which stays orthonormal where columns are nearly dependent, with the signs that Gram-Schmidt has.
    """
    Q, R = torch.linalg.qr(matrix)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0)
    found: Tensor = Q * signs
    return found
