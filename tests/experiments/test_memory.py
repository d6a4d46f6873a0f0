"""Where there is not the memory for what was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from igc.errors import RunError
from igc.experiments.compare.one import Silent
from igc.experiments.memory import enough_memory
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from support.tiny import write_recipe


def no_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("allocate", "says"),
    [
        (lambda: torch.empty(10**14), "memory: 400000000000000 bytes were asked for at once; ask"),
        (lambda: torch.empty(2**62), "there is not enough memory; ask"),
        (lambda: torch.empty(10**30), "there is not enough memory; ask"),
        (lambda: np.empty(10**15), "memory: 7.11 PiB were asked for at once; ask"),
        (no_memory, "there is not enough memory; ask"),
    ],
)
def test_it_is_one_line(allocate: Callable[[], object], says: str) -> None:
    with pytest.raises(RunError) as caught, enough_memory("ask for less"):
        allocate()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), TypeError("no")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, enough_memory():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "ends"), [(MemoryError(), RunError), (ZeroDivisionError("a fault of ours"), ZeroDivisionError)]
)
def test_a_run_that_cannot_begin_is_taken_back_whatever_the_reason(
    error: Exception, ends: type[Exception], tmp_path: Path
) -> None:
    def build(recipe: Recipe) -> None:
        raise error

    run = Run.create(load(write_recipe(tmp_path / "tiny")), tmp_path / "run")
    with pytest.raises(ends):
        run.train(Silent(), build)  # type: ignore[arg-type]
    assert not run.folder.exists()


def test_ctrl_c_leaves_what_there_is_to_go_on_with(tmp_path: Path) -> None:
    def build(recipe: Recipe) -> None:
        raise KeyboardInterrupt

    run = Run.create(load(write_recipe(tmp_path / "tiny")), tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.train(Silent(), build)  # type: ignore[arg-type]
    assert Run.open(run.folder).recipe == run.recipe
