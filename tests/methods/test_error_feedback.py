"""Error feedback: what a biased codec loses comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igc.codecs import CODECS
from igc.methods import ErrorFeedback, KSubspace, LocalSteps, Static, TimeVarying, fedsgd
from igc.methods.error_feedback import Memory
from igc.optim import Sgd
from igc.projection import BlockedHadamard, to_dense
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


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20).filter(lambda v: max(map(abs, v)) > 1e-3),
    codec=st.sampled_from([name for name, c in CODECS.items() if name.startswith("lloyd")]),
)
def test_the_codec_is_made_a_contraction(values: list[float], codec: str) -> None:
    """Even on a vector with one number that is not zero, on which an unbiased scale overshoots by a factor of d."""
    from igc.methods.error_feedback import _Correcting

    vector = torch.tensor(values)
    worker = _Correcting(None, codec)  # type: ignore[arg-type]
    read = worker._read(vector * worker._contraction(vector))
    assert float((vector - read).norm()) <= float(vector.norm()) * (1 + 1e-5)


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
