"""How many threads a run computes with beside others."""

from __future__ import annotations

import os

import pytest

from igc.experiments.compare.execute import threads_for


@pytest.mark.parametrize("given", [None, "", "0", "all"])
@pytest.mark.parametrize(("jobs", "threads"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_runs_share_the_cores(monkeypatch: pytest.MonkeyPatch, given: str | None, jobs: int, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_for(jobs) == threads


def test_who_says_how_many_gets_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (threads_for(1), threads_for(8)) == (3, 3)
