"""Worker processes: the clients of a round on several models at once, for what cannot be computed as one batch.

Each process builds the clients' side for itself, once, and ends in the same `respond` as the in-process engine. What
clients remember stays with the parent, which checkpoints it, and travels with the requests.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from igc.errors import IgcError, TrainingError
from igc.federation.engine import Reply, Request
from igc.federation.in_process import InProcess
from igc.methods import MissedError
from igc.records import from_tree, to_tree

PATIENCE_S: Final = 5.0  # for a process that should be ending

Respond = Callable[[Request, Any], tuple[Any, bytes]]  # with a client's memory; see `InProcess.respond`


class _Packed(NamedTuple):
    """A memory as bytes: PyTorch's own pickling shares open files, of which a process may have only so many."""

    tree: Any
    tensors: dict[str, bytes]


class _Answer(NamedTuple):
    """What came of a task: the new memory and the upload, or what was raised."""

    memory: _Packed
    payload: bytes
    error: Exception | None = None

    def opened(self) -> tuple[Any, bytes]:
        if self.error is not None:
            raise self.error
        return _unpack(self.memory), self.payload


class Processes:
    """Answers a round's requests in worker processes; see `igc.federation.in_process.InProcess` for one process.

    Payloads and states are the same, bit for bit, where both compute with as many PyTorch threads (the order in which a
    sum is taken may depend on them) and messages are lossless.

    Args:
        sequential: the engine whose clients these are; it keeps their memories and its policies hold.
        crew: the processes; they are started when first needed, and ended by `close`.
    """

    def __init__(self, sequential: InProcess, crew: Crew) -> None:
        self._sequential = sequential
        self._crew = crew

    @property
    def memories(self) -> dict[str, Any]:
        """What clients remember."""
        return self._sequential.memories

    @memories.setter
    def memories(self, memories: dict[str, Any]) -> None:
        self._sequential.memories = memories

    def exchange(self, round: int, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply for each request, in order, each as soon as it is its turn.

        Args:
            round: counted from 0.
            requests: of different clients.

        Raises:
            NonFiniteError: a client's loss is not finite and the policy is "stop".
            TrainingError: a process died; the message says how.
        """
        silent = {request.client: self._sequential.silence(round, request) for request in requests}
        asked = [request for request in requests if silent[request.client] is None]
        with closing(self._crew.answers(asked, self.memories.get)) as answers:
            for request in requests:
                reply = silent[request.client]
                yield reply or self._sequential.settle(request, lambda: next(answers).opened())

    def close(self) -> None:
        """End the processes."""
        self._crew.close()


class Crew:
    """Worker processes, started when first needed.

    Args:
        factory: builds the clients' side, in each process; can be pickled.
        count: of processes.
    """

    def __init__(self, factory: Callable[[], Respond], count: int) -> None:
        self._factory = factory
        self._count = count
        self._members: list[_Member] = []

    def answers(self, requests: Sequence[Request], memory_of: Callable[[str], Any]) -> Generator[_Answer, None, None]:
        """What comes of each request, in order.

        Where this is closed half-way, or a process dies, all processes are ended.

        Args:
            requests: of different clients.
            memory_of: client -> what it remembers.

        Raises:
            TrainingError: a process died.
        """
        self._start()
        todo = iter(requests)
        ready: dict[str, _Answer] = {}
        busy: dict[Any, _Member] = {}  # by their connections

        def give_next(member: _Member) -> None:
            if (request := next(todo, None)) is not None:
                busy[member.connection] = member
                member.give(request, memory_of(request.client))

        try:
            for member in self._members:
                give_next(member)
            for request in requests:
                while request.client not in ready:
                    for connection in wait(list(busy)):
                        ready[busy[connection].client] = busy[connection].take()
                        give_next(busy.pop(connection))
                yield ready.pop(request.client)
        finally:
            if busy:  # with something that nobody waits for any more
                self.close()

    def close(self) -> None:
        """End the processes, whatever they do."""
        members, self._members = self._members, []
        for member in members:
            member.process.terminate()
        for member in members:
            member.end()

    def _start(self) -> None:
        if self._members:
            return
        threads = max(1, torch.get_num_threads() // self._count)
        with _interrupts_held():
            for number in range(1, self._count + 1):
                self._members.append(_Member(f"{number} of {self._count}", self._factory, threads))


class _Member:
    """The parent's end of one process."""

    def __init__(self, name: str, factory: Callable[[], Respond], threads: int) -> None:
        # A fork would copy locks that threads of PyTorch hold.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, factory, threads), name=f"igc worker {name}", daemon=True
        )
        self.process.start()
        theirs.close()  # or its death would not end the connection
        self.client = ""
        self._name = name

    def give(self, request: Request, memory: Any) -> None:
        self.client = request.client
        with self._death():
            self.connection.send((request, _pack(memory)))

    def take(self) -> _Answer:
        with self._death():
            answer: _Answer = self.connection.recv()
            return answer

    def end(self) -> None:
        self.process.join(PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
        self.process.close()

    @contextmanager
    def _death(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            code = self.process.exitcode
            raise TrainingError(
                f"worker process {self._name} died of {_cause(code)} at client '{self.client}'; where memory ran out, lower"
                " federation.processes or federation.micro_batch, then go on from the last complete round with igc resume"
            ) from None


def _serve(connection: Connection, factory: Callable[[], Respond], threads: int) -> None:
    """The life of a process: answer until the parent is gone."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal; it is the parent's to handle
    torch.set_num_threads(threads)
    respond: Respond | None = None
    with suppress(EOFError, OSError):
        while True:
            request, packed = connection.recv()
            try:
                respond = respond or factory()  # first: it brings the types that memories are made of
                memory, payload = respond(request, _unpack(packed))
                answer = _Answer(_pack(memory), payload)
            except Exception as error:  # all of them: the parent decides
                if not isinstance(error, (IgcError, MissedError)):
                    error.add_note(f"In a worker process:\n{traceback.format_exc()}")
                answer = _Answer(_pack(None), b"", error)
            connection.send(answer)


def _pack(memory: Any) -> _Packed:
    tensors: dict[str, Tensor] = {}
    tree = to_tree(memory, tensors)
    return _Packed(tree, {key: save({key: tensor}) for key, tensor in tensors.items()})


def _unpack(packed: _Packed) -> Any:
    return from_tree(packed.tree, {key: load(data)[key] for key, data in packed.tensors.items()})


def _cause(code: int | None) -> str:
    """An exit code in words."""
    if code is None or code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"exit code {code} ({signal.Signals(-code).name})"
    return f"exit code {code}"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait, and processes that are started here never see it; their first seconds are not their own code's."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which else would be started, and let Ctrl-C through, half-way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
