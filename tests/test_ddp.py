"""The DDP hook: two real Gloo processes against one process with the dense matrix, and against each other bit by bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from igc import ParameterSpace, SubspaceOptimizer
from igc.ddp import SubspaceState
from igc.errors import ProjectionError
from igc.projection import make_projection, to_dense
from support.replicas import DIM, RATE, WORLD, batches, flat, loss_of, net, projection_for, replica

PAGE = Path(__file__).parent.parent / "docs" / "ddp.md"
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(replica, (folder,), nprocs=WORLD)  # type: ignore[no-untyped-call, attr-defined]
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def dense_path(
    every: int = 0,
    feedback: bool = False,
    accumulate: int = 1,
    model: nn.Module | None = None,
    data: list[tuple[Tensor, Tensor]] | None = None,
) -> list[Tensor]:
    """SGD in one process on whole batches, each gradient times scale A A^T, A dense."""
    model = model or net()
    projection = projection_for(model)
    scale = DIM / projection.D if feedback else 1.0
    trainable = [p for p in model.parameters() if p.requires_grad]
    path: list[Tensor] = []
    error, total = torch.zeros(projection.D), torch.zeros(projection.D)
    for index, batch in enumerate(data or batches()):
        model.zero_grad()
        loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
        total += torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trainable])
        if (index + 1) % accumulate:
            continue
        A = to_dense(projection.child(len(path) // every) if every else projection)
        wanted = total + error
        step = scale * A @ (A.T @ wanted)
        error = wanted - step if feedback else error
        total.zero_()
        with torch.no_grad():
            vector_to_parameters(parameters_to_vector(trainable) - RATE * step, trainable)
        path.append(flat(model))
    return path


def assert_close(path: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(path) == len(expected) > 1
    for ours, theirs in zip(path, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert not torch.allclose(path[0], path[-1], atol=1e-3)  # it did move


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("static", dense_path),
        ("fresh", lambda: dense_path(every=2)),
        ("feedback", lambda: dense_path(every=1, feedback=True)),
        ("channels last", dense_path),
        ("accumulated", lambda: dense_path(accumulate=2)),
    ],
)
def test_two_replicas_follow_the_dense_matrix_on_whole_batches(
    results: Results, case: str, expected: Callable[[], list[Tensor]]
) -> None:
    assert_close(results[0][case]["path"], expected())


@pytest.mark.parametrize("case", ["static", "fresh", "feedback", "unused", "bfloat16", "mixed", "adam", "accumulated"])
def test_replicas_stay_equal_bit_by_bit(results: Results, case: str) -> None:
    for one, other in zip(results[0][case]["path"], results[1][case]["path"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("case", "same"),
    [("small buckets", "static"), ("bucket views", "static"), ("feedback in small buckets", "feedback")],
)
def test_no_bit_depends_on_buckets(results: Results, case: str, same: str) -> None:
    for rank in range(WORLD):
        for one, other in zip(results[rank][case]["path"], results[rank][same]["path"], strict=True):
            assert torch.equal(one, other)


def test_one_all_reduce_of_d_numbers_a_step(results: Results) -> None:
    assert results[0]["all-reduced"][True] == [DIM]
    assert sum(results[0]["all-reduced"][False]) == ParameterSpace.of(net()).D  # the count does see DDP's own


def test_a_branch_that_nobody_takes_counts_as_zero_and_stays(results: Results) -> None:
    idle = net(branch=True)
    expected = dense_path(model=idle)
    untouched = net(branch=True).idle
    assert untouched is not None
    for name, value in untouched.state_dict().items():
        assert torch.equal(results[0]["unused"]["model"][f"idle.{name}"], value)
    entries = {entry.name: entry for entry in ParameterSpace.of(idle).entries}
    head = slice(entries["head.weight"].offset, entries["head.weight"].stop)
    # After the first step paths part: the dense step moves the branch too, which nothing reads.
    assert_close([p[head] for p in results[0]["unused"]["path"]], [p[head] for p in expected])


@pytest.mark.parametrize(("case", "tolerance"), [("bfloat16", 0.05), ("mixed", 0.02)])
def test_half_precision_follows_to_its_own_rounding(results: Results, case: str, tolerance: float) -> None:
    assert_close([theta.float() for theta in results[0][case]["path"]], dense_path(), tolerance)


def test_errors_of_the_replicas_average_to_the_error_of_the_mean(results: Results) -> None:
    """Linear compressors: one replica on the whole batch would remember the mean of what the two remember."""
    first, second = (torch.cat([e.reshape(-1) for e in r["feedback"]["state"]["error"]]) for r in results)
    assert not torch.allclose(first, second)
    model = net()
    projection, error = projection_for(model), torch.zeros(ParameterSpace.of(model).D)
    for step, batch in enumerate(batches()):
        model.zero_grad()
        loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
        wanted = error + torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        A = to_dense(projection.child(step))
        sent = DIM / projection.D * A @ (A.T @ wanted)
        error = wanted - sent
        trainable = [p for p in model.parameters() if p.requires_grad]
        with torch.no_grad():
            vector_to_parameters(parameters_to_vector(trainable) - RATE * sent, trainable)
    torch.testing.assert_close((first + second) / 2, error, rtol=1e-4, atol=1e-5)


def test_training_goes_on_from_a_state_dict_with_the_same_bits(results: Results) -> None:
    for rank in range(WORLD):
        whole, rest = results[rank]["feedback"], results[rank]["resumed"]
        assert rest["state"]["step"] == whole["state"]["step"]
        assert torch.equal(rest["path"][-1], whole["path"][-1])


def test_a_step_that_overflows_is_seen_by_all_and_leaves_no_trace_in_the_error(results: Results) -> None:
    for found in (r["overflown"] for r in results):
        assert found["finite"] == [True, False]
        for before, after in zip(*found["errors"], strict=True):
            assert torch.equal(before, after) and before.any()


def test_a_parameter_outside_the_space_is_refused(results: Results) -> None:
    for found in results:
        assert "not in the hook's space" in found["stranger"]


def test_sigma_without_ddp_is_single_process_adam_on_sigma(results: Results) -> None:
    model, path = net(), []
    optimizer = SubspaceOptimizer(model, projection_for(model), lambda p: torch.optim.Adam(p, lr=RATE))
    for batch in batches():
        loss_of(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        path.append(flat(model))
    assert_close(results[0]["sigma"], path, 1e-4)
    assert all(map(torch.equal, results[0]["sigma"], results[1]["sigma"]))


@pytest.mark.parametrize("trainer", ["accelerate", "lightning"])
def test_trainers_that_wrap_ddp_follow_the_plain_path(results: Results, trainer: str) -> None:
    for ours, plain in zip(results[0][trainer], results[0]["static"]["path"], strict=True):
        assert torch.equal(ours, plain)


def test_settings_that_cannot_work_are_refused() -> None:
    model = net()
    projection = projection_for(model)
    with pytest.raises(ProjectionError, match="steps_per_subspace = 1"):
        SubspaceState(model, projection, error_feedback=True)
    with pytest.raises(ProjectionError, match="-1"):
        SubspaceState(model, projection, steps_per_subspace=-1)
    with pytest.raises(ProjectionError, match="D = 7"):
        SubspaceState(model, make_projection("blocked-hadamard", D=7, d=2, seed=0))


def test_a_state_of_another_setting_is_refused() -> None:
    model = net()
    projection = projection_for(model)
    saved = SubspaceState(model, projection, steps_per_subspace=1).state_dict()
    with pytest.raises(ProjectionError, match="steps_per_subspace"):
        SubspaceState(model, projection).load_state_dict(saved)
    with pytest.raises(ProjectionError, match="projection"):
        SubspaceState(model, projection.child(1), steps_per_subspace=1).load_state_dict(saved)
    with pytest.raises(ProjectionError, match="error_feedback"):
        SubspaceState(model, projection, steps_per_subspace=1, error_feedback=True, scale=1.0).load_state_dict(saved)


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), names)
    model = net()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        names["train"](model, batches(1) * 30, loss_of)
    finally:
        dist.destroy_process_group()
    assert loss_of(model, batches()[0]) < 0.95 * loss_of(net(), batches()[0])
