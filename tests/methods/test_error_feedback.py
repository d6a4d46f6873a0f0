"""Error feedback: what a biased codec loses comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from typing_extensions import override

from igc.codecs import CODECS
from igc.messages import Kind, Message
from igc.methods import ErrorFeedback, KSubspace, LocalSteps, Static, TimeVarying, fedsgd
from igc.methods.error_feedback import Memory
from igc.methods.local_steps import Training
from igc.methods.worker import Sketch, Worker
from igc.optim import Sgd
from igc.projection import BlockedHadamard, Projection, Term, to_dense
from support.federation import Federation
from support.quadratic import Quadratic, QuadraticFederation, minimum, quadratics

CODEC = "lloyd-1"


def falling(round: int) -> float:
    return 0.3 / (1 + round / 20)


def distances(method: Any, clients: list[Quadratic], *rounds: int) -> list[float]:
    """From the minimum, after so many rounds, and so many more."""
    f = QuadraticFederation(method, clients, rate=falling, up=CODEC)
    return [float(np.linalg.norm(f.run(count) - minimum(clients))) for count in rounds]


def test_one_bit_converges_with_it_and_stalls_without() -> None:
    clients = quadratics(3, 8, seed=2)
    stalled = distances(fedsgd(8, Sgd()), clients, 50, 70)
    fed_back = distances(ErrorFeedback(fedsgd(8, Sgd()), CODEC), clients, 50, 70)
    assert stalled[1] > 0.9 * stalled[0] > 3
    assert fed_back[1] < 0.7 * fed_back[0]
    assert fed_back[1] < 0.05 * stalled[1]


def test_inside_a_subspace_it_converges_to_the_minimum_there() -> None:
    clients, projection = quadratics(4, 16, seed=5), BlockedHadamard(D=16, d=4, seed=0)
    A = to_dense(projection).double().numpy()
    curvature = np.sum([A.T @ c.curvature @ A for c in clients], axis=0)
    best = A @ np.linalg.solve(curvature, np.sum([A.T @ c.curvature @ c.centre for c in clients], axis=0))
    plain = QuadraticFederation(Static(projection, Sgd()), clients, rate=lambda r: falling(r) / 5, up=CODEC)
    wrapped = ErrorFeedback(Static(projection, Sgd()), CODEC)
    fed_back = QuadraticFederation(wrapped, clients, rate=lambda r: falling(r) / 5, up=CODEC)
    assert np.linalg.norm(fed_back.run(120) - best) < 0.1 * np.linalg.norm(plain.run(120) - best)


@pytest.mark.parametrize("codec", ["lloyd-1", "lloyd-2", "eden-1", "int4", "qsgd-2", "float16"])
def test_what_was_sent_and_what_is_kept_make_up_all_gradients(codec: str) -> None:
    """The sum of what the server read and of what a client keeps is the sum of its sketches."""
    clients = quadratics(1, 32, seed=0)
    method = ErrorFeedback(fedsgd(32, Sgd()), codec)
    f = QuadraticFederation(method, clients, rate=1e-3, up=codec)
    total = np.zeros(32)
    for _ in range(12):
        total += clients[0].gradient(f.theta())
        f.run(1)
    memory = f.engine.memories["q0"]
    (error,) = memory.errors.values()
    read = -f.theta() / 1e-3
    np.testing.assert_allclose(read + error.numpy(), total, rtol=1e-3, atol=1e-2)


@dataclass
class Given(Worker):
    """A worker whose sketches are given, one after the other."""

    vectors: list[Tensor]

    @override
    def move_(self, current: Sequence[Term], settled: Sequence[Term] = ()) -> None:
        pass

    @override
    def sketch(self, projection: Projection) -> Sketch:
        return Sketch(self.vectors.pop(0), 1, 0.0)


def uploads(codec: str, *vectors: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """What a client with these sketches uploads, and the error that it then keeps; None: none."""
    method = ErrorFeedback(fedsgd(vectors[0].numel(), Sgd()), codec)
    download = Message(Kind.DOWNLOAD, 0, {"sigma": torch.zeros(vectors[0].numel())})
    memory, worker, found = method.client_init(), Given(list(vectors)), []
    for _ in vectors:
        memory, tensors = method.upload(memory, download, worker)
        found.append((tensors["sketch"], next(iter(memory.errors.values()), None)))
    return found


def read_by_the_server(vector: Tensor, codec: str) -> Tensor:
    return CODECS[codec].decode(CODECS[codec].encode(vector), tuple(vector.shape))


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    codec=st.sampled_from([name for name in CODECS if name != "uint32"]),
)
def test_no_codec_loses_more_than_it_was_given(values: list[float], codec: str) -> None:
    """Even on a vector with one number that is not zero, on which an unbiased scale overshoots by a factor of d."""
    vector = torch.tensor(values)
    [(sent, error)] = uploads(codec, vector)
    assert error is not None
    torch.testing.assert_close(vector - read_by_the_server(sent, codec), error, rtol=0, atol=0)
    assert float(error.double().norm()) <= float(vector.double().norm())


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20).filter(lambda v: max(map(abs, v)) > 1e-3),
    codec=st.sampled_from([name for name in CODECS if name.startswith("lloyd")]),
)
def test_without_noise_the_factor_is_the_best(values: list[float], codec: str) -> None:
    vector = torch.tensor(values)
    [(_, error)] = uploads(codec, vector)
    read = read_by_the_server(vector, codec).double()
    least = float(vector.double().norm()) ** 2 - float(vector.double() @ read) ** 2 / float(read @ read)
    assert error is not None
    assert float(error.double().norm()) ** 2 == pytest.approx(least, rel=1e-4, abs=1e-5 * float(vector.norm()) ** 2)


@pytest.mark.parametrize("codec", ["qsgd-2", "qsgd-4", "eden-1", "int4"])
def test_noise_that_is_drawn_anew_is_no_exception(codec: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        vector = torch.randn(6, generator=generator)
        [(_, error)] = uploads(codec, vector)
        assert error is not None
        assert float(error.double().norm()) <= float(vector.double().norm())


@pytest.mark.parametrize("codec", ["int4", "qsgd-2", "eden-1", "lloyd-1", "float16", "bfloat16"])
def test_what_is_not_finite_is_sent_for_the_server_to_refuse_and_spoils_nothing_later(codec: str) -> None:
    good = torch.tensor([1.0, -2.0, 0.5, 3.0])
    wrongs = [torch.full((4,), torch.inf), torch.tensor([torch.nan, 1.0, 1.0, 1.0])]
    if codec in ("qsgd-2", "eden-1", "lloyd-1"):
        wrongs.append(torch.full((4,), 3e38))  # finite, but not its scale
    for wrong in wrongs:
        (_, before), (sent, spoilt), (again, after) = uploads(codec, good, wrong, good)
        assert before is not None
        torch.testing.assert_close(sent, wrong + before, equal_nan=True)
        assert spoilt is None
        assert bool(torch.isfinite(again).all())
        assert after is not None
        assert bool(torch.isfinite(after).all())


@pytest.mark.parametrize("codec", ["eden-1", "float16"])
def test_a_client_whose_local_training_overflows_is_left_out_of_that_round_only(codec: str) -> None:
    f = Federation(lambda p, o: LocalSteps(ErrorFeedback(Static(p, o), codec), 0.05, epochs=1), per_round=7, up=codec)
    f.run(1)
    victim, training = f.sampler.sample(1)[0], Training.sketch

    def overflown(self: Training, projection: Projection) -> Sketch:
        sketch = training(self, projection)
        spoilt = cast(Any, self)._worker.client == victim
        return sketch._replace(vector=sketch.vector * torch.inf) if spoilt else sketch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "sketch", overflown)
        assert set(f.run(1)[0].rejected) == {victim}
    assert f.run(1)[0].rejected == {}


def test_errors_are_kept_by_subspace_and_dropped_where_subspaces_change() -> None:
    f = Federation(
        lambda p, o: ErrorFeedback(TimeVarying(KSubspace(p, o, 2), 3), CODEC), per_round=7, sampling="uniform", up=CODEC
    )
    f.run(3)
    memories: dict[str, Memory] = f.engine.inner.memories
    digests = {f.method.projection.child(0).child(0, k).digest.hex() for k in range(2)}
    assert set().union(*(memory.errors for memory in memories.values())) == digests
    assert max(len(memory.errors) for memory in memories.values()) == 2
    kept = sum(tensor.numel() for tensor in memories["c0"].errors.values())
    assert kept <= 2 * f.projection.d
    f.run(1)
    later = {f.method.projection.child(1).child(0, k).digest.hex() for k in range(2)}
    for memory in f.engine.inner.memories.values():
        assert memory.epoch == 1
        assert set(memory.errors) < later


def test_what_local_training_uploads_is_corrected_and_none_of_its_steps() -> None:
    f = Federation(
        lambda p, o: LocalSteps(ErrorFeedback(Static(p, o), CODEC), 0.05, epochs=3), up=CODEC, learning_rate=1.0
    )
    plain = Federation(lambda p, o: LocalSteps(Static(p, o), 0.05, epochs=3), learning_rate=1.0)
    f.run(1), plain.run(1)
    one, other = f.engine.inner.memories, plain.engine.inner.memories
    assert one.keys() == other.keys()
    from igc.messages import Kind, decode

    for (_, client, theirs), (_, _, ours) in zip(plain.engine.up, f.engine.up, strict=True):
        way = decode(theirs, plain.agreement, Kind.UPLOAD)["sketch"]
        read = decode(ours, f.agreement, Kind.UPLOAD)["sketch"]
        (error,) = one[client].errors.values()
        torch.testing.assert_close(read + error, way, rtol=1e-5, atol=1e-6)


def test_a_codec_that_loses_nothing_changes_nothing() -> None:
    plain, wrapped = Federation(Static), Federation(lambda p, o: ErrorFeedback(Static(p, o), "float32"))
    plain.run(5), wrapped.run(5)
    assert torch.allclose(plain.position(), wrapped.position(), rtol=1e-6, atol=1e-7)
    assert all(not e.abs().max() > 1e-6 for m in wrapped.engine.inner.memories.values() for e in m.errors.values())
