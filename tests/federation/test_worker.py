"""The worker against autograd and the dense matrix."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

from igc.errors import DataError
from igc.federation import BatchSettings, Workplace
from igc.federation.worker import NonFiniteError
from igc.projection import Projection, Term, to_dense
from igc.space import ParameterSpace
from igc.tasks.base import Task
from support.strategies import COMPRESSING, make, vector
from support.toy import ToyTask, toy_clients

CLIENTS = toy_clients(4, seed=2, examples=(7, 12, 5, 1))
WHOLE = BatchSettings(size=None, micro=None, clip_norm=None, seed=0)
DIM = 10


def place(
    batches: BatchSettings = WHOLE,
    task: Task | None = None,
    clients: Mapping[str, Sequence[Any]] = CLIENTS,
    exclude: Sequence[str] = (),
) -> Workplace:
    task = task or ToyTask()
    model = task.model()
    return Workplace(model, ParameterSpace.of(model, exclude=exclude), task, clients, batches)


def projection_for(workplace: Workplace, family: str = "blocked-hadamard") -> Projection:
    D = workplace.space.D
    return make(family, D, D if family == "identity" else DIM, 6)


def gradient(examples: Sequence[Any], model: nn.Module | None = None) -> tuple[Tensor, float]:
    """The gradient of the mean loss, flat and in float64, by autograd on a model of its own; and that loss."""
    model = (model or ToyTask().model()).double()
    x = torch.stack([x for x, _ in examples]).double()
    y = torch.stack([y for _, y in examples]).double()
    loss = (model(x).squeeze(-1) - y).square().mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in grads]), loss.item()


@pytest.mark.parametrize("family", [*COMPRESSING, "identity"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_sketch_is_the_projected_gradient_of_the_mean_loss(family: str, client: str) -> None:
    workplace = place()
    projection = projection_for(workplace, family)
    sketch = workplace.worker(client, 0).sketch(projection)
    g, loss = gradient(CLIENTS[client])
    expected = to_dense(projection).double().T @ g
    torch.testing.assert_close(sketch.vector.double(), expected, rtol=1e-4, atol=1e-5)
    assert sketch.vector.dtype == torch.float32
    assert sketch.weight == len(CLIENTS[client])
    assert sketch.loss == pytest.approx(loss, rel=1e-5)


def test_the_gradient_is_taken_where_the_worker_moved() -> None:
    workplace = place()
    projection = projection_for(workplace)
    sigma = vector(DIM, 1)
    worker = workplace.worker("c0", 3)
    worker.move_([Term(projection, sigma)])
    sketch = worker.sketch(projection)

    model = ToyTask().model()
    A = to_dense(projection)
    moved = parameters_to_vector(model.parameters()) + A @ sigma
    with torch.no_grad():
        pieces = torch.split(moved, [p.numel() for p in model.parameters()])
        for parameter, piece in zip(model.parameters(), pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))
    g, loss = gradient(CLIENTS["c0"], model)
    torch.testing.assert_close(sketch.vector.double(), A.double().T @ g, rtol=1e-4, atol=1e-4)
    assert sketch.loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("micro", [1, 2, 3, 6, 7, 100])
def test_micro_batches_add_up_to_the_batch(micro: int) -> None:
    whole, parts = place(), place(replace(WHOLE, micro=micro))
    projection = projection_for(whole)
    expected = whole.worker("c0", 0).sketch(projection)
    found = parts.worker("c0", 0).sketch(projection)
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-5, atol=1e-6)
    assert found.weight == expected.weight
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


class Words(ToyTask):
    """Counts predictions like a language model: an example is worth as many as its x has positive entries."""

    def loss(self, model: nn.Module, examples: Sequence[Any]) -> tuple[Tensor, int]:
        x = torch.stack([x for x, _ in examples])
        y = torch.stack([y for _, y in examples])
        worth = (x > 0).sum(1)
        return (worth * (model(x).squeeze(-1) - y).square()).sum(), int(worth.sum())

    def count(self, examples: Sequence[Any]) -> int:
        return sum(int((x > 0).sum()) for x, _ in examples)


@pytest.mark.parametrize("micro", [None, 1, 3])
def test_where_examples_are_worth_unequal_numbers_of_predictions_it_is_still_the_mean(micro: int | None) -> None:
    workplace = place(replace(WHOLE, micro=micro), Words())
    projection = projection_for(workplace)
    sketch = workplace.worker("c1", 0).sketch(projection)
    # An example that is worth n is n examples worth one.
    repeated = [(x, y) for x, y in CLIENTS["c1"] for _ in range(int((x > 0).sum()))]
    g, loss = gradient(repeated)
    torch.testing.assert_close(sketch.vector.double(), to_dense(projection).double().T @ g, rtol=1e-4, atol=1e-5)
    assert sketch.weight == len(repeated)
    assert sketch.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e3])
def test_clipping_is_torchs_before_the_projection(limit: float, micro: int | None) -> None:
    workplace = place(replace(WHOLE, clip_norm=limit, micro=micro))
    projection = projection_for(workplace)
    sketch = workplace.worker("c0", 0).sketch(projection)
    model = ToyTask().model()
    task_loss, count = ToyTask().loss(model, CLIENTS["c0"])
    (task_loss / count).backward()  # type: ignore[no-untyped-call]
    before = clip_grad_norm_(model.parameters(), limit)
    clipped = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(sketch.vector, to_dense(projection).T @ clipped, rtol=1e-4, atol=1e-4 * limit)
    assert (before > limit) == (limit < 100)  # both sides of the limit are tried
    assert sketch.loss == pytest.approx(task_loss.item() / count, rel=1e-5)  # the loss is never clipped


class Cast(ToyTask):
    """The toy in half precision, with gradients of any size."""

    def __init__(self, dtype: torch.dtype, factor: float) -> None:
        super().__init__(width=64)
        self.dtype = dtype
        self.factor = factor

    def model(self) -> nn.Module:
        return super().model().to(self.dtype)

    def loss(self, model: nn.Module, examples: Sequence[Any]) -> tuple[Tensor, int]:
        x = torch.stack([x for x, _ in examples]).to(self.dtype)
        return model(x).sum() * self.factor, len(examples)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(torch.float32, 1.0), (torch.float32, 1e18), (torch.bfloat16, 1.0), (torch.float16, 1.0), (torch.float16, 3e4)],
    ids=str,
)
@pytest.mark.parametrize("micro", [None, 2])
def test_a_clipped_gradient_has_the_norm_of_the_limit_in_every_dtype(
    dtype: torch.dtype, factor: float, micro: int | None
) -> None:
    workplace = place(replace(WHOLE, clip_norm=0.25, micro=micro), Cast(dtype, factor))
    sketch = workplace.worker("c0", 0).sketch(projection_for(workplace, "identity"))
    assert sketch.vector.norm().item() == pytest.approx(0.25, rel=1e-3)


@pytest.mark.parametrize("micro", [None, 2])
def test_a_gradient_too_large_for_its_norm_is_refused_not_silently_dropped(micro: int | None) -> None:
    workplace = place(replace(WHOLE, clip_norm=0.25, micro=micro), Cast(torch.float32, 1e37))
    with pytest.raises(NonFiniteError, match="client 'c0', round 1:"):
        workplace.worker("c0", 0).sketch(projection_for(workplace, "identity"))


def ids_of(batch: Sequence[Any]) -> list[int]:
    return [id(example) for example in batch]


def test_draws_depend_on_seed_round_and_client_alone() -> None:
    settings = replace(WHOLE, size=4)
    places = [(client, number) for client in ("c0", "c1") for number in range(6)]
    one = place(settings)
    torch.manual_seed(1)
    expected = {key: ids_of(one.worker(*key).batch) for key in places}
    torch.manual_seed(2)
    # Backwards, in another process's place: fewer clients, other micro-batches and clipping.
    fewer = {client: CLIENTS[client] for client in ("c1", "c0")}
    other = place(replace(settings, micro=1, clip_norm=1.0), clients=fewer)
    assert {key: ids_of(other.worker(*key).batch) for key in reversed(places)} == expected
    reseeded = place(replace(settings, seed=1))
    assert {key: ids_of(reseeded.worker(*key).batch) for key in places} != expected
    assert len({tuple(expected["c1", number]) for number in range(6)}) > 1


def test_clients_of_equal_data_draw_their_own_batches() -> None:
    data = CLIENTS["c1"]
    workplace = place(replace(WHOLE, size=3), clients={"a": data, "b": data})
    differ = [ids_of(workplace.worker("a", r).batch) != ids_of(workplace.worker("b", r).batch) for r in range(20)]
    assert sum(differ) > 15


@pytest.mark.parametrize("size", [1, 4, 11])
def test_a_batch_is_drawn_without_replacement_and_evenly(size: int) -> None:
    workplace = place(replace(WHOLE, size=size))
    own = ids_of(CLIENTS["c1"])
    taken = dict.fromkeys(own, 0)
    rounds = 300
    for number in range(rounds):
        batch = ids_of(workplace.worker("c1", number).batch)
        assert len(batch) == len(set(batch)) == size
        for example in batch:
            taken[example] += 1  # KeyError: not the client's own
    for count in taken.values():
        assert stats.binomtest(count, rounds, size / len(own)).pvalue > 1e-6


@pytest.mark.parametrize("size", [None, 12, 13, 1000])
def test_a_client_with_no_more_than_a_batch_gives_all_it_has(size: int | None) -> None:
    batch = place(replace(WHOLE, size=size)).worker("c1", 5).batch
    assert ids_of(batch) == ids_of(CLIENTS["c1"])


def test_a_drawn_batch_gives_its_own_gradient() -> None:
    workplace = place(replace(WHOLE, size=3))
    worker = workplace.worker("c1", 4)
    projection = projection_for(workplace)
    sketch = worker.sketch(projection)
    expected = to_dense(projection).double().T @ gradient(worker.batch)[0]
    torch.testing.assert_close(sketch.vector.double(), expected, rtol=1e-4, atol=1e-5)
    assert sketch.weight == 3


def poisoned(value: float) -> dict[str, list[Any]]:
    clients: dict[str, list[Any]] = {name: list(examples) for name, examples in CLIENTS.items()}
    x, _ = clients["c0"][3]
    clients["c0"][3] = (x, torch.tensor(value))
    return clients


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30], ids=["nan", "inf", "overflow"])
def test_a_loss_that_is_not_finite_names_client_and_round(value: float, micro: int | None) -> None:
    workplace = place(replace(WHOLE, micro=micro), clients=poisoned(value))
    with pytest.raises(NonFiniteError, match=r"client 'c0', round 18: the loss is (nan|inf)"):
        workplace.worker("c0", 17).sketch(projection_for(workplace))


class SteepRoot(ToyTask):
    """A finite loss whose gradient is NaN: the square root at zero, times zero."""

    def loss(self, model: nn.Module, examples: Sequence[Any]) -> tuple[Tensor, int]:
        total, count = super().loss(model, examples)
        return total + (model(examples[0][0]).sum() * 0).abs().sqrt(), count


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("family", [*COMPRESSING, "identity"])
def test_a_gradient_that_is_not_finite_names_client_and_round(family: str, clip: float | None) -> None:
    workplace = place(replace(WHOLE, clip_norm=clip), SteepRoot())
    with pytest.raises(NonFiniteError, match=r"client 'c2', round 9: the gradient.* is n(ot finite|an)"):
        workplace.worker("c2", 8).sketch(projection_for(workplace, family))


def test_one_clients_nan_leaves_no_trace_for_the_next() -> None:
    workplace, clean = place(clients=poisoned(float("nan"))), place()
    projection = projection_for(workplace)
    with pytest.raises(NonFiniteError):
        workplace.worker("c0", 0).sketch(projection)
    found = workplace.worker("c1", 0).sketch(projection)
    assert torch.equal(found.vector, clean.worker("c1", 0).sketch(projection).vector)


def test_sketches_do_not_depend_on_who_came_before() -> None:
    workplace = place()
    projection = projection_for(workplace)
    alone = {client: place().worker(client, 0).sketch(projection).vector for client in CLIENTS}
    for client in itertools.chain(CLIENTS, reversed(CLIENTS)):
        assert torch.equal(workplace.worker(client, 0).sketch(projection).vector, alone[client])


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("micro", [None, 2])
def test_gradients_are_freed(micro: int | None, clip: float | None) -> None:
    workplace = place(replace(WHOLE, micro=micro, clip_norm=clip))
    workplace.worker("c0", 0).sketch(projection_for(workplace))
    assert [parameter.grad for parameter in workplace.model.parameters()] == [None] * 4


class Silent(ToyTask):
    """Examples without anything to predict."""

    def loss(self, model: nn.Module, examples: Sequence[Any]) -> tuple[Tensor, int]:
        return super().loss(model, examples)[0] * 0, 0

    def count(self, examples: Sequence[Any]) -> int:
        return 0


def test_a_batch_without_predictions_is_refused_by_name() -> None:
    workplace = place(task=Silent())
    with pytest.raises(DataError, match="client 'c1' has nothing to predict"):
        workplace.worker("c1", 0).sketch(projection_for(workplace))


def test_unknown_and_empty_clients_are_refused_by_name() -> None:
    workplace = place(clients={**CLIENTS, "hollow": []})
    with pytest.raises(DataError, match="client 'nobody' has no data here"):
        workplace.worker("nobody", 0)
    with pytest.raises(DataError, match="client 'hollow' has no examples"):
        workplace.worker("hollow", 0)


class Frozen(ToyTask):
    """The toy with its first bias frozen by its maker."""

    def model(self) -> nn.Module:
        model = super().model()
        dict(model.named_parameters())["0.bias"].requires_grad_(False)
        return model


def test_frozen_and_excluded_tensors_get_no_gradient_and_do_not_move() -> None:
    workplace = place(task=Frozen(), exclude=["2.weight"])
    assert [entry.name for entry in workplace.space.entries] == ["0.weight", "2.bias"]
    seen: set[str] = set()

    def watch(name: str, parameter: Tensor) -> None:
        if parameter.requires_grad:
            register: Any = parameter.register_hook
            register(lambda g: seen.add(name))

    before = {name: p.detach().clone() for name, p in workplace.model.named_parameters()}
    for name, parameter in workplace.model.named_parameters():
        watch(name, parameter)
    projection = projection_for(workplace)
    worker = workplace.worker("c0", 0)
    worker.move_([Term(projection, vector(DIM, 3))])
    worker.sketch(projection)
    assert seen == {"0.weight", "2.bias"}
    for name, parameter in workplace.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in seen)


def test_a_sketch_of_part_of_the_model_is_that_part_of_the_gradient() -> None:
    workplace = place(exclude=["0.*"])
    projection = projection_for(workplace, "identity")
    sketch = workplace.worker("c0", 0).sketch(projection)
    g = gradient(CLIENTS["c0"])[0][-workplace.space.D :]
    torch.testing.assert_close(sketch.vector.double(), g, rtol=1e-4, atol=1e-6)
