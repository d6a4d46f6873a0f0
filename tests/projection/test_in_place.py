"""Moves in place against moves from theta_0: equal to rounding, the drift bounded, and gone after a re-synchronisation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from igc.errors import ProjectionError
from igc.optim import SubspaceOptimizer
from igc.projection import BlockedHadamard, InPlaceTheta, Term, Theta
from support.strategies import vector

SIZES = [70, 30, 100]


def base(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [vector(n, n, dtype) for n in SIZES]


def terms(step: int, matrices: int = 2) -> list[Term]:
    return [Term(BlockedHadamard(D=200, d=16, seed=s), vector(16, 100 * step + s) * 0.1) for s in range(matrices)]


def drift(moved: list[Tensor], exact: list[Tensor]) -> float:
    return float((torch.cat(moved).double() - torch.cat(exact).double()).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_drift_stays_below_half_a_unit_in_the_last_place_a_move(dtype: torch.dtype) -> None:
    moved, exact = base(dtype), base(dtype)
    here, there = InPlaceTheta(moved), Theta(exact)
    unit = torch.finfo(dtype).eps * float(torch.cat(base()).abs().max() + 2)
    for step in range(60):
        here.move_(terms(step))
        there.move_(terms(step))
        assert drift(moved, exact) <= unit * 2 * (step + 2)  # two matrices: each is added, and rounded, by itself
    assert drift(moved, exact) > 0
    assert here.moves == 60


def test_reading_the_base_again_ends_the_drift() -> None:
    moved, exact = base(), base()
    here, there = InPlaceTheta(moved, reload=base, every=10), Theta(exact)
    for step in range(11):
        here.move_(terms(step, matrices=1))
        there.move_(terms(step, matrices=1))
    assert here.moves == 0
    assert all(torch.equal(a, b) for a, b in zip(moved, exact, strict=True))


def test_matrices_may_come_and_go() -> None:
    moved, exact = base(), base()
    here, there = InPlaceTheta(moved), Theta(exact)
    for current, settled in [(terms(1), []), (terms(2)[:1], terms(1)), (terms(3)[1:], []), ([], [])]:
        here.move_(current, settled)
        there.move_(current, settled)
        assert drift(moved, exact) < 1e-5


def test_it_cannot_read_what_nobody_gave() -> None:
    with pytest.raises(ProjectionError, match="give `reload`"):
        InPlaceTheta(base()).resync_()
    with pytest.raises(ProjectionError, match="at least one move"):
        InPlaceTheta(base(), every=0)
    wrong = InPlaceTheta(base(), reload=lambda: [torch.zeros(n + 1) for n in SIZES])
    with pytest.raises(ProjectionError, match="shape"):
        wrong.resync_()


def test_the_subspace_optimizer_in_place_follows_the_exact_one() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    other = copy.deepcopy(model)
    x, y = vector(60, 1).view(10, 6), vector(10, 2)
    D = sum(p.numel() for p in model.parameters())
    optimizers = [
        SubspaceOptimizer(m, BlockedHadamard(D=D, d=32, seed=0), lambda p: torch.optim.Adam(p, lr=0.01), in_place=flag)
        for m, flag in ((model, True), (other, False))
    ]
    for _ in range(30):
        for m, optimizer in zip((model, other), optimizers, strict=True):
            (m(x).squeeze(-1) - y).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
