"""SCAFFOLD: local training in which every client corrects its steps for how its data differ from everybody's.

Karimireddy et al., "SCAFFOLD: stochastic controlled averaging for federated learning", ICML 2020, algorithm 1, option II,
in the coordinates of a subspace: control variates are d numbers. c_i is what client i takes its gradient to be, c the mean
of all c_i; N is the number of clients, S those of the round, L_i the local steps of client i.

    server -> client    sigma, c, and the number of the download that the client's c_i is of            2 d numbers
    client              x <- sigma;  L_i times:  x <- x - eta_c (A^T g(x) + c' - c_i)
                        h_i = w / (L_i eta_c), its mean gradient;  c_i <- c_i - c' + h_i
    client -> server    sigma - x, and L_i                                                          d numbers, one more
    server              sigma steps on weighted_mean(w);  c <- c + (|S| / N) (weighted_mean(h_i) - c')

The paper's clients send the change of c_i, too, another d numbers. That is h_i - c', which the server computes from what it
has: the same algorithm at half the upload. For that both sides take what was read at the other end: c' is what clients read
of c, w what the server reads of sigma - x. Else what codecs lose would add up in c for good, and c drift away from the c_i.
The step of c keeps it the mean of the c_i where clients count the same, as the paper's do, or where all take part in every
round, which no recipe can promise. Else c would be no mean of theirs, and training end at a wrong point: recipes with other
weights are refused.

A client keeps c_i as it was before and after its last upload, 2 d numbers. Downloads are numbered by their round, from 1,
and say which of them the client last answered with an upload that the server took; 0 is none, and c_i zero. Where that is
not the last one, what came of that one is taken back. A client that has not got the c_i of the download named says so, and
sits the round out. What c has of that c_i nobody knows any more: c and all c_i are zero again from the next round on, as if
training began where it stands. So they are where the subspace changes (time-varying), since they are coordinates in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from igc.codecs import NotFiniteScaleError
from igc.finite import all_finite
from igc.messages import Due, Kind, Message, TensorError, as_read
from igc.methods.base import Means, MissedError, Traffic, Turn
from igc.methods.local_steps import LocalSteps, Training
from igc.methods.worker import Worker
from igc.methods.wrapped import Wrapped
from igc.projection import Term
from igc.records import record


@record
class State:
    """The server's state.

    Attributes:
        inner: the other method's.
        control: c, (d,).
        known: client -> number of the newest download that c has its answer to; absent: its c_i is zero.
        lapsed: whether a client has forgotten its c_i in the round at hand.
    """

    inner: Any
    control: Tensor
    known: dict[str, int]
    lapsed: bool


@record
class Memory:
    """What a client remembers.

    Attributes:
        inner: for the other method.
        number: of the newest download that was answered; 0: none was.
        control: c_i after that, (d,); None: zero.
        before: number of the download that ``previous`` is of.
        previous: c_i before that, (d,); None: zero.
    """

    inner: Any
    number: int = 0
    control: Tensor | None = None
    before: int = 0
    previous: Tensor | None = None


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
        return State(self.inner.init(), torch.zeros(self.projection.d), {}, False)

    @override
    def download(self, state: State, turn: Turn) -> dict[str, Tensor]:
        since = _number(state.known.get(turn.client, 0))
        return {**self.inner.download(state.inner, turn), "control": state.control, "since": since}

    @override
    def client_init(self) -> Memory:
        return Memory(self.inner.client_init())

    @override
    def upload(self, memory: Memory, download: Message, worker: Worker) -> tuple[Memory, dict[str, Tensor]]:
        if "control" not in download or tuple(download["control"].shape) != (self.projection.d,):
            raise TensorError(
                f"a download of SCAFFOLD has a 'control' of {self.projection.d:,} numbers; this one has not"
            )
        everybodys, since = download["control"], self._since(download)
        known = _of(memory, since)
        own = torch.zeros_like(everybodys) if known is None else known
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
        return Memory(inner, download.round + 1, control, since, known), tensors

    @staticmethod
    def _since(download: Message) -> int:
        """Number of the download that c has this client's answer to."""
        if "since" not in download or download["since"].dim() or download["since"].is_floating_point():
            raise TensorError("a download of SCAFFOLD says 'since' which one it knows this client; this one does not")
        return int(download["since"])

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
        if self.inner.began(inner) > round or state.lapsed:  # another subspace, or all begin again
            return State(inner, torch.zeros_like(state.control), {}, False)
        if means is None:
            return dataclasses.replace(state, inner=inner)
        mean_gradient = means.groups[0][self.projection.d :]
        control = state.control + len(means.clients) / self.clients * (mean_gradient - self._sent(state))
        return State(inner, control, {**state.known, **dict.fromkeys(means.clients, round + 1)}, False)

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
        # Others of the round answer to the c that they were sent: it is over with the round.
        lapsed = state.lapsed or client in state.known
        return dataclasses.replace(state, inner=self.inner.forget(state.inner, client), lapsed=lapsed)

    @override
    def condense(self, memories: Mapping[str, Memory], newest: str) -> Mapping[str, Memory]:
        theirs = {client: memory.inner for client, memory in memories.items()}
        found = self.inner.condense(theirs, newest)
        if found is theirs:
            return memories
        return {client: dataclasses.replace(memory, inner=found[client]) for client, memory in memories.items()}


def _of(memory: Memory, since: int) -> Tensor | None:
    """What c_i was once download number ``since`` was answered; None: zero.

    Raises:
        MissedError: that is not known here.
    """
    if not since:
        return None
    if since == memory.number:
        return memory.control
    if since == memory.before:  # the server did not get what came after
        return memory.previous
    raise MissedError(f"the download builds on control variates of number {since}, here are those of {memory.number}")


@lru_cache(maxsize=1)
def _number(number: int) -> Tensor:
    """The same tensor for clients of one number, one after the other: what is the same is encoded once."""
    return torch.tensor(number)
