"""Gradients projected as they are born, against gradients kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from igc.errors import ProjectionError
from igc.projection import Projection, make_projection, project_as_born, project_tensors
from support.strategies import COMPRESSING, make


class Tied(nn.Module):
    """A weight used twice, one used once, one never."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Parameter(torch.randn(50, 8, dtype=dtype))
            self.linear = nn.Linear(8, 8, dtype=dtype)
            self.unused = nn.Parameter(torch.randn(7, dtype=dtype))

    def forward(self, index: Tensor) -> Tensor:
        hidden = self.linear(self.embedding[index]).tanh()
        logits: Tensor = hidden @ self.embedding.T
        return logits.float().logsumexp(-1).sum()


@pytest.mark.parametrize("family", COMPRESSING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_sketch_is_that_of_the_kept_gradient(family: str, dtype: torch.dtype) -> None:
    model = Tied(dtype)
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]
    projection = make(family, sum(sizes), 24, 3)
    index = torch.tensor([3, 1, 4, 1, 5])
    with project_as_born(projection, parameters) as sketch:
        model(index).backward()
    assert all(p.grad is None for p in parameters)
    model(index).backward()
    expected = project_tensors(projection, [p.grad for p in parameters], sizes)
    torch.testing.assert_close(sketch, expected, rtol=1e-4, atol=1e-4)


def test_several_backward_passes_add_up_in_float32() -> None:
    model = Tied(torch.bfloat16)
    parameters = list(model.parameters())
    projection = make_projection("blocked-hadamard", D=sum(p.numel() for p in parameters), d=24, seed=3)
    parts = []
    for i in range(4):
        with project_as_born(projection, parameters) as part:
            model(torch.tensor([i])).backward()
        parts.append(part)
    with project_as_born(projection, parameters) as whole:
        for i in range(4):
            model(torch.tensor([i])).backward()
    torch.testing.assert_close(whole, torch.stack(parts).sum(0), rtol=1e-5, atol=1e-4)


def test_gradients_wait_no_longer_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))
    parameters = list(model.parameters())
    projection = make_projection("blocked-hadamard", D=sum(p.numel() for p in parameters), d=24, seed=3)
    projected: list[int] = []

    def count(self: Projection, pieces: Sequence[Tensor], start: int, out: Tensor) -> Tensor:
        projected.append(sum(piece.numel() for piece in pieces))
        return original(self, pieces, start, out)

    original = Projection.project_run_
    monkeypatch.setattr(Projection, "project_run_", count)
    sketches = []
    for waiting, runs in ((0, 12), (3 * 64 * 65, 2), (10**6, 1)):
        projected.clear()
        with project_as_born(projection, parameters, waiting=waiting) as sketch:
            model(torch.ones(1, 64)).sum().backward()
        assert len(projected) == runs  # neighbours are projected together
        assert max(projected) <= waiting + 64 * 64
        assert sum(projected) == projection.D
        sketches.append(sketch)
    torch.testing.assert_close(sketches[1], sketches[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sketches[2], sketches[0], rtol=1e-4, atol=1e-4)


def test_hooks_are_gone_afterwards_even_after_an_error() -> None:
    model = nn.Linear(4, 1)
    projection = make_projection("blocked-hadamard", D=5, d=2, seed=0)
    with pytest.raises(ZeroDivisionError), project_as_born(projection, list(model.parameters())):
        1 / 0  # noqa: B018
    model(torch.ones(1, 4)).sum().backward()
    assert model.weight.grad is not None


def test_what_does_not_fit_is_refused() -> None:
    model = nn.Linear(4, 1)
    projection = make_projection("blocked-hadamard", D=6, d=2, seed=0)
    with pytest.raises(ProjectionError, match="do not fit"), project_as_born(projection, list(model.parameters())):
        pass
    model(torch.ones(1, 4)).sum().backward()
    projection = make_projection("blocked-hadamard", D=5, d=2, seed=0)
    with (
        pytest.raises(ProjectionError, match="still has a gradient"),
        project_as_born(projection, list(model.parameters())),
    ):
        pass
