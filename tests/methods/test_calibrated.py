"""The calibration round: what is measured, what is sent to whom, and what is then trained."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from igc.federation import BatchSettings, Dropout, Fused, InProcess, Reply, Workplace
from igc.messages import Kind, Message, TensorError, decode, encode
from igc.methods import Calibrated, ErrorFeedback, KSubspace, LocalSteps, MissedError, Static, TimeVarying, Turn
from igc.methods.bits import to_bits
from igc.methods.calibrated import State, name_of_weights
from igc.optim import Sgd
from igc.projection import Scaled, to_dense
from igc.records import from_tree, to_tree
from support.federation import TOY_SHAPES, TOY_SIZES, Federation, Maker
from support.toy import ToyTask, toy_gradient

L = len(TOY_SIZES)


def calibrated(p: Any, o: Any) -> Calibrated:
    return Calibrated(Static(p, o), TOY_SIZES)


def by_hand(theta: Tensor, examples: list[Any]) -> Tensor:
    """Mean squares of a batch's gradient, tensor by tensor, by plain autograd in float64."""
    return torch.stack([part.square().mean() for part in torch.split(toy_gradient(theta, examples), list(TOY_SIZES))])


def weights(f: Federation) -> Tensor:
    found = f.server.state.weights
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("exponent", [1.0, 0.5, 2.0, -0.5, -1.0])
def test_weights_are_the_root_mean_square_gradients_at_the_start(exponent: float) -> None:
    f = Federation(lambda p, o: Calibrated(Static(p, o), TOY_SIZES, exponent, floor=1e-6))
    clients = f.sampler.sample(0)
    f.run(1)
    counts = [len(f.clients[client]) for client in clients]
    assert len(set(counts)) > 1  # or weighing could not be told from not weighing
    parts = [n * by_hand(f.base, list(f.clients[client])) for client, n in zip(clients, counts, strict=True)]
    raw = (torch.stack(parts).sum(0) / sum(counts)).pow(exponent / 2)
    sizes = torch.tensor(TOY_SIZES).double()
    expected = raw / ((sizes * raw**2).sum() / sizes.sum()).sqrt()
    torch.testing.assert_close(weights(f).double(), expected, rtol=1e-5, atol=0)
    assert torch.equal(f.position(), f.base)


def test_it_is_descent_in_the_scaled_subspace() -> None:
    rate = 0.05
    f = Federation(calibrated, learning_rate=rate)
    f.run(1)
    projection = Scaled(f.projection, TOY_SIZES, tuple(weights(f).tolist()))
    A, theta = to_dense(projection).double(), f.base.double()
    for number in range(1, 8):
        clients = f.sampler.sample(number)
        total = sum(len(f.clients[client]) for client in clients)
        shares = [len(f.clients[c]) / total * toy_gradient(theta, list(f.clients[c])) for c in clients]
        theta = theta - rate * A @ (A.T @ torch.stack(shares).sum(0))
        f.run(1)
        torch.testing.assert_close(f.position().double(), theta, rtol=1e-4, atol=1e-5)


def test_the_floor_and_an_exponent_of_nothing() -> None:
    method = calibrated(Federation(calibrated).projection, Sgd())
    energies = torch.full((L,), 1e-12)
    energies[0] = 4.0
    w = method.weights_of(energies)
    torch.testing.assert_close(w[1:] / w[0], torch.full((L - 1,), 0.01 * (TOY_SIZES[0] / sum(TOY_SIZES)) ** 0.5))
    assert method.weights_of(torch.zeros(L)).tolist() == [1.0] * L


def test_below_zero_a_tensor_with_hardly_any_gradient_counts_as_one_with_a_little() -> None:
    method = Calibrated(Static(Federation(calibrated).projection, Sgd()), TOY_SIZES, -0.5, floor=0.1)
    energies = torch.full((L,), 4.0)
    energies[0], energies[1] = 1e-12, 1.0
    mean = float((energies * torch.tensor(TOY_SIZES)).sum() / sum(TOY_SIZES))
    w = method.weights_of(energies)
    assert float(w[1] / w[2]) == pytest.approx(2**0.5)  # half the root mean square
    assert float(w[0] / w[2]) == pytest.approx((2 / (0.1 * mean**0.5)) ** 0.5)


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.5, 1.0])
def test_a_tensor_without_any_gradient_weighs_as_the_others_do(exponent: float) -> None:
    # LoRA's A has none at theta_0, where B is zero, and is to be trained all the same.
    method = Calibrated(Static(Federation(calibrated).projection, Sgd()), TOY_SIZES, exponent, floor=0.01)
    energies = torch.full((L,), 4.0)
    energies[0], energies[1] = 0.0, 1.0
    w = method.weights_of(energies).double()
    sizes = torch.tensor(TOY_SIZES, dtype=torch.float64)
    others = float(((w**2 * sizes)[1:].sum() / sizes[1:].sum()) ** 0.5)
    assert float(w[0]) == pytest.approx(others) == pytest.approx(1.0)


def scales(f: Federation) -> dict[tuple[int, str], bool]:
    """Round and client -> whether the download had w."""
    sent = {}
    for number, client, payload in f.engine.down:
        sent[number, client] = "scale" in decode(payload, f.agreement, Kind.DOWNLOAD)
    return sent


def test_w_goes_once_to_each_client_late_ones_too_and_is_paid_for() -> None:
    f = Federation(calibrated)
    f.run(12)
    met: set[str] = set()
    for number in range(1, 12):
        for client in f.sampler.sample(number):
            assert scales(f)[number, client] == (client not in met)
            met.add(client)
    assert met == set(f.clients)
    first, later = f.engine.down[3], f.engine.down[-1]
    assert len(first[2]) - len(later[2]) == 4 * L + len("scale") + 1 + 2 + 4
    assert len(f.engine.up[0][2]) == 36 + (1 + 8 + 2 + 4 + 4 * L) + (1 + 6 + 2 + 4) + (1 + 4 + 2 + 4)
    assert f.server.ledger.up == sum(len(payload) for _, _, payload in f.engine.up)
    assert f.server.ledger.down == sum(len(payload) for _, _, payload in f.engine.down)


def test_a_lost_upload_confirms_nothing_and_a_wiped_client_is_sent_w_again() -> None:
    f = Federation(calibrated)
    f.run(1)
    lost = f.sampler.sample(1)[0]
    f.engine.tamper = lambda _, r: r._replace(payload=None, error="dropped") if r.client == lost else r
    f.run(1)
    f.engine.tamper = lambda _, r: r
    turn = Turn(lost, 2, 0, 3)
    assert "scale" in f.method.download(f.server.state, turn)
    f.run(11)
    assert "scale" not in f.method.download(f.server.state, turn)
    wiped = f.sampler.sample(13)[0]
    f.engine.inner.memories.pop(wiped)
    assert f.run(1)[0].rejected == {wiped: "missed"}
    assert "scale" in f.method.download(f.server.state, Turn(wiped, 14, 0, 3))


def test_without_uploads_the_next_round_calibrates() -> None:
    f = Federation(calibrated)
    f.engine.tamper = lambda _, r: r._replace(payload=None, error="dropped")
    f.run(2)
    assert f.server.state.weights is None
    f.engine.tamper = lambda _, r: r
    f.run(1)
    assert weights(f).numel() == L


@pytest.mark.parametrize("codec", ["eden-1", "lloyd-2", "int4", "float16"])
def test_lossy_codecs_leave_energies_and_w_as_they_are(codec: str) -> None:
    exact, lossy = Federation(calibrated), Federation(calibrated, up=codec, down=codec)
    exact.run(1)
    lossy.run(4)
    assert torch.equal(weights(lossy), weights(exact))
    for memory in lossy.engine.inner.memories.values():
        assert memory.weights is None or torch.equal(memory.weights, weights(exact))


def test_a_run_that_stops_right_after_the_calibration_goes_on_the_same() -> None:
    straight, broken = Federation(calibrated), Federation(calibrated)
    straight.run(5)
    broken.run(1)
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(to_tree({"s": broken.server.state, "m": broken.engine.inner.memories}, tensors))
    again = Federation(calibrated)
    found = from_tree(json.loads(tree), tensors)
    again.server.state, again.engine.inner.memories, again.server.round = found["s"], found["m"], 1
    again.run(4)
    assert torch.equal(again.position(), straight.position())


def poisoned(f: Federation, energies: Tensor) -> str:
    """Why the server leaves out an upload with these energies, sent in the first round."""
    victim = f.sampler.sample(0)[0]

    def change(number: int, reply: Reply) -> Reply:
        if reply.client != victim or reply.payload is None:
            return reply
        tensors = dict(decode(reply.payload, f.agreement, Kind.UPLOAD).tensors)
        tensors["energies"] = energies.view(torch.int32).long() & 0xFFFFFFFF
        return reply._replace(payload=encode(Message(Kind.UPLOAD, number, tensors), f.agreement))

    f.engine.tamper = change
    return f.run(1)[0].rejected[victim]


def test_energies_that_are_none_are_left_out() -> None:
    assert "NaN" in poisoned(Federation(calibrated), torch.full((L,), torch.nan))
    assert "NaN or infinity" in poisoned(Federation(calibrated), torch.full((L,), torch.inf))
    assert "not negative" in poisoned(Federation(calibrated), torch.full((L,), -1.0))
    assert "shape" in poisoned(Federation(calibrated), torch.ones(L + 1))


def test_a_client_refuses_weights_that_are_none() -> None:
    f = Federation(calibrated)
    f.run(1)
    good = dict(f.method.download(f.server.state, Turn("x", 1, 0, 3)))
    worker = f.workplace.worker(next(iter(f.clients)), 1)
    for wrong in (torch.ones(L + 1), torch.full((L,), 2.0), torch.full((L,), torch.nan), torch.ones(L, 1)):
        named = {**good, "scale": to_bits(wrong), "scaling": torch.tensor(name_of_weights(wrong))}
        with pytest.raises(TensorError, match="'scale'"):
            f.method.upload(f.method.client_init(), Message(Kind.DOWNLOAD, 1, named), worker)


def test_a_client_refuses_a_name_that_is_none_and_a_w_of_another_name() -> None:
    f = Federation(calibrated)
    f.run(1)
    good = dict(f.method.download(f.server.state, Turn("x", 1, 0, 3)))
    worker = f.workplace.worker(next(iter(f.clients)), 1)
    nameless = {key: tensor for key, tensor in good.items() if key != "scaling"}
    wrongs = [
        nameless,
        *({**good, "scaling": wrong} for wrong in (torch.tensor(1.5), torch.tensor([1]), torch.tensor(7))),
    ]
    for wrong in wrongs:
        with pytest.raises(TensorError, match="'scaling'"):
            f.method.upload(f.method.client_init(), Message(Kind.DOWNLOAD, 1, wrong), worker)


def test_a_client_that_has_another_w_says_so_and_begins_anew_with_the_one_that_comes() -> None:
    """As after a server that went back to before its calibration, and found another w."""
    f = Federation(lambda p, o: Calibrated(ErrorFeedback(Static(p, o), "int4"), TOY_SIZES))
    f.run(4)
    client = f.sampler.sample(3)[0]
    memory = f.engine.inner.memories[client]
    assert memory.inner.errors
    other = calibrated(f.projection, Sgd()).weights_of(torch.arange(L) + 1.0)
    assert not torch.equal(other, weights(f))
    f.server.state = State(f.server.state.inner, other, f.server.state.known)
    turn, worker = Turn(client, 4, 0, 3), f.workplace.worker(client, 4)
    download = Message(Kind.DOWNLOAD, 4, f.method.download(f.server.state, turn))
    assert "scale" not in download
    with pytest.raises(MissedError):
        f.method.upload(memory, download, worker)
    download = Message(Kind.DOWNLOAD, 4, f.method.download(f.method.forget(f.server.state, client), turn))
    after, tensors = f.method.upload(memory, download, worker)
    fresh, theirs = f.method.upload(f.method.client_init(), download, worker)
    assert torch.equal(after.weights, other)
    assert torch.equal(tensors["sketch"], theirs["sketch"])
    assert after.inner.errors.keys() == fresh.inner.errors.keys()


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("micro", [None, 2])
def test_energies_are_those_of_the_whole_batch(micro: int | None, clip: float | None) -> None:
    f = Federation(calibrated)
    client = max(f.clients, key=lambda name: len(f.clients[name]))
    place = Workplace(f.model, f.space, ToyTask(), f.clients, BatchSettings(None, micro, clip, 3))
    found = place.worker(client, 0).energies()
    expected = by_hand(f.base, list(f.clients[client]))
    if clip is not None:
        expected *= (clip / toy_gradient(f.base, list(f.clients[client])).norm()) ** 2
    torch.testing.assert_close(found.vector.double(), expected, rtol=1e-5, atol=0)
    assert found.weight == len(f.clients[client])
    assert all(parameter.grad is None for parameter in f.model.parameters())


MAKERS: dict[str, Maker] = {
    "static": calibrated,
    "time-varying": lambda p, o: Calibrated(TimeVarying(Static(p, o), rounds_per_epoch=2), TOY_SIZES),
    "k-subspace": lambda p, o: Calibrated(KSubspace(p, o, subspaces=2), TOY_SIZES),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_fused_engine_gives_the_same(name: str) -> None:
    plain, fused = Federation(MAKERS[name]), Federation(MAKERS[name])
    assert fused.method.linear
    inner = InProcess(fused.method, fused.agreement, fused.workplace, Dropout(0.0, 3))
    plain.run(6)
    for _ in range(6):
        fused.server.run_round(Fused(inner, fused.workplace))
    torch.testing.assert_close(fused.position(), plain.position(), rtol=1e-5, atol=1e-6)
    assert fused.server.ledger.accounts == plain.server.ledger.accounts


def test_what_is_not_linear_inside_is_not_linear_outside() -> None:
    f = Federation(lambda p, o: Calibrated(LocalSteps(Static(p, o), 0.05, epochs=2), TOY_SIZES))
    assert not f.method.linear


def test_shapes_of_the_toy_are_what_the_tests_take_them_for() -> None:
    assert [nn.Parameter(torch.zeros(shape)).numel() for shape in TOY_SHAPES] == list(TOY_SIZES)
