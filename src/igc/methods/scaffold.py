"""SCAFFOLD: local training in which every client corrects its steps for how its data differ from everybody's.

Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning", ICML 2020, algorithm 1, option II,
in the coordinates of a subspace: control variates are d numbers. c_i is what client i takes its gradient to be, c the mean
of all c_i; N is the number of clients, S those of the round, L_i the local steps of client i.

    server -> client    sigma, c                                                                        2 d numbers
    client              x <- sigma;  L_i times:  x <- x - eta_c (A^T g(x) + c' - c_i)
                        h_i = w / (L_i eta_c), its mean gradient;  c_i <- c_i - c' + h_i
    client -> server    sigma - x, and L_i                                                          d numbers, one more
    server              sigma steps on weighted_mean(w);  c <- c + (|S| / N) (weighted_mean(h_i) - c')

The paper's clients send the change of c_i, too, another d numbers. That is h_i - c', which the server computes from what it
has: the same algorithm at half the upload. For that both sides take what was read at the other end: c' is what clients read
of c, w what the server reads of sigma - x. Else what codecs lose would add up in c for good, and c drift away from the c_i.
Means are weighted as the recipe says, the paper's are not; where clients take part by turns and differ in weight, c is then
the weighted mean of the c_i only in the long run.

A client keeps c_i: d numbers. They are coordinates of a subspace: where it changes (time-varying), c and all c_i are zero
again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import NotFiniteScaleError
from igc.finite import all_finite
from igc.messages import Due, Kind, Message, TensorError, as_read
from igc.methods.base import Means, Traffic, Turn
from igc.methods.local_steps import LocalSteps, Training
from igc.methods.worker import Worker
from igc.methods.wrapped import Wrapped
from igc.projection import Term
from igc.records import record


@record
class State:
    """The other method's state, and c (d,)."""

    inner: Any
    control: Tensor


@record
class Memory:
    """What a client remembers.

    Attributes:
        inner: for the other method.
        epoch: of the subspace that ``control`` belongs to.
        control: c_i, (d,); None: zero.
    """

    inner: Any
    epoch: int = 0
    control: Tensor | None = None


@dataclass(frozen=True)
class Scaffold(Wrapped):
    """Local training with control variates, over a method with one subspace at a time.

    Attributes:
        learning_rate: eta_c, of the clients' steps, plain gradient descent.
        clients: N.
        epochs: times that a client goes through its batch.
        batch_size: examples of one step; None: all that the client drew.
        up: the codec that uploads go by.
        down: the codec that downloads go by.
    """

    learning_rate: float
    clients: int
    epochs: int = 1
    batch_size: int | None = None
    up: str = "float32"
    down: str = "float32"

    @property
    @override
    def own(self) -> dict[str, Any]:
        return {
            "name": "scaffold",
            "learning_rate": self.learning_rate,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
        }

    @property
    def local(self) -> LocalSteps:
        """The same local training without correction."""
        return LocalSteps(self.inner, self.learning_rate, self.epochs, self.batch_size)

    @override
    def at_work(self, worker: Worker) -> Worker:
        return Training(worker, self.local)

    @override
    def init(self) -> State:
        return State(self.inner.init(), torch.zeros(self.projection.d))

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        return {**self.inner.download(state.inner, turn), "control": state.control}

    @override
    def client_init(self) -> Memory:
        return Memory(self.inner.client_init())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        if "control" not in download or tuple(download["control"].shape) != (self.projection.d,):
            raise TensorError(
                f"a download of SCAFFOLD has a 'control' of {self.projection.d:,} numbers; this one has not"
            )
        epoch, everybodys = int(download["epoch"]) if "epoch" in download else 0, download["control"]
        own = memory.control if epoch == memory.epoch else None
        own = torch.zeros_like(everybodys) if own is None else own
        training = Training(worker, self.local, everybodys - own)
        inner, tensors = self.inner.upload(memory.inner, download, training)
        tensors = {**tensors, "steps": torch.tensor(training.steps)}
        try:
            sent = Message(Kind.UPLOAD, download.round, as_read(tensors, self.up))
            control = own - everybodys + self.contribution(sent)[self.projection.d :]
        except NotFiniteScaleError:
            control = own
        if not all_finite(control):  # the server refuses this upload; the next may be sound again
            control = own
        return Memory(inner, epoch, control), tensors

    @override
    def due(self) -> dict[str, Due]:
        return {**self.inner.due(), "steps": Due((), whole=True)}

    @override
    def contribution(self, upload: Message) -> Tensor:
        """The client's way and its mean gradient, end to end: (2 d,)."""
        steps = int(upload["steps"])
        if steps < 1:
            raise TensorError(f"'steps' is {steps}; local training takes at least one")
        way = self.inner.contribution(upload)
        return torch.cat([way, way / (steps * self.learning_rate)])

    @override
    def update(self, state: State, means: Means | None, round: int, learning_rate: float) -> State:
        ours = None if means is None else means._replace(groups={0: means.groups[0][: self.projection.d]})
        inner = self.inner.update(state.inner, ours, round, learning_rate)
        if self.inner.began(inner) > round:  # another subspace
            return State(inner, torch.zeros_like(state.control))
        if means is None:
            return State(inner, state.control)
        mean_gradient = means.groups[0][self.projection.d :]
        return State(inner, state.control + len(means.clients) / self.clients * (mean_gradient - self._sent(state)))

    def _sent(self, state: State) -> Tensor:
        """The control variate c as clients read it."""
        try:
            return as_read({"control": state.control}, self.down)["control"]
        except NotFiniteScaleError:  # no client took part; they find that it is not, and say so
            return state.control

    @override
    def terms(self, state: State) -> tuple[list[Term], list[Term]]:
        return self.inner.terms(state.inner)

    @override
    def traffic(self, participations: int, epochs: int) -> Traffic:
        traffic = self.inner.traffic(participations, epochs)
        down = None if traffic.down is None else traffic.down + self.projection.d * participations
        return traffic._replace(down=down)

    @override
    def began(self, state: State) -> int:
        return self.inner.began(state.inner)

    @override
    def forget(self, state: State, client: str) -> State:
        return dataclasses.replace(state, inner=self.inner.forget(state.inner, client))

    @override
    def condense(self, memories: Mapping[str, Memory], newest: str) -> Mapping[str, Memory]:
        theirs = {client: memory.inner for client, memory in memories.items()}
        found = self.inner.condense(theirs, newest)
        if found is theirs:
            return memories
        return {client: dataclasses.replace(memory, inner=found[client]) for client, memory in memories.items()}
