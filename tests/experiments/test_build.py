"""From a recipe's settings to methods."""

from __future__ import annotations

from typing import Any

import pytest

from igc.errors import ProjectionError, RecipeError
from igc.experiments.build import build_method
from igc.experiments.recipe import load
from igc.methods import (
    FetchSgd,
    LocalSteps,
    LocalTopK,
    PowerSgd,
    RandomK,
    Static,
    TimeVarying,
    TrueTopK,
    ZerothOrder,
)
from igc.projection import BlockedHadamard, Coordinates, CountSketch, DenseGaussian
from igc.space import ParameterSpace

SPACE = ParameterSpace.from_shapes([("a", (60, 50)), ("b", (50,))])
LOCAL = "local.learning_rate=0.1"


def built(name: str, *overrides: str) -> Any:
    return build_method(load("movie-reviews", [f"method.name={name}", *overrides]), SPACE, pass_rounds=7, seed=5)


def test_powersgd_takes_the_shapes_of_the_space() -> None:
    method = built("powersgd", "method.rank=3", "method.error_feedback=false")
    assert isinstance(method, PowerSgd)
    assert (method.shapes, method.rank, method.error_feedback, method.seed) == (((60, 50), (50,)), 3, False, 5)


def test_decomfl_has_fresh_directions_in_every_round() -> None:
    method = built("decomfl", "method.perturbations=4", "method.smoothing=0.01", "method.differences=forward")
    assert isinstance(method, ZerothOrder)
    assert (method.smoothing, method.differences) == (0.01, "forward")
    assert isinstance(method.inner, TimeVarying)
    assert method.inner.rounds_per_epoch == 1
    assert method.projection == BlockedHadamard(D=SPACE.D, d=4, seed=5, block=1024)
    published = built("decomfl", "method.projection=dense-gaussian")
    assert published.projection == DenseGaussian(D=SPACE.D, d=10, seed=5)


def test_local_steps_of_decomfl_are_differences_too() -> None:
    method = built("decomfl", LOCAL)
    assert isinstance(method, ZerothOrder)
    assert isinstance(method.inner, LocalSteps)
    assert isinstance(method.inner.inner, TimeVarying)
    assert isinstance(built("static", "method.dim=8", LOCAL).inner, Static)
    assert isinstance(built("powersgd", LOCAL).inner, PowerSgd)


@pytest.mark.parametrize("setting", ["method.dim=8", "method.rank=2", "method.rounds_per_epoch=2"])
def test_what_means_nothing_to_decomfl_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError, match="means nothing where name = 'decomfl'"):
        built("decomfl", setting)


SGD = ("optimizer={name='sgd', learning_rate=0.1, momentum=0.9}",)


def test_sparse_methods_scale_with_the_model() -> None:
    """From FetchSGD's defaults for 6,568,640 parameters, 5 x 500,000 and k = 50,000: D / 13 and D / 130."""
    fetch = built("fetchsgd", *SGD)
    assert fetch == FetchSgd(CountSketch(D=3050, d=5 * 234, seed=5, rows=5), k=23, momentum=0.9)
    assert built("true-top-k", *SGD) == TrueTopK.of(3050, k=23, momentum=0.9)
    assert built("local-top-k") == LocalTopK.of(3050, built("fedsgd").optimizer, k=23)
    assert built("random-k") == RandomK(Coordinates(D=3050, d=23, seed=5), built("fedsgd").optimizer)


def test_sparse_methods_take_their_settings() -> None:
    fetch = built("fetchsgd", *SGD, "method.rows=3", "method.columns=100", "method.k=7", "method.masking=false")
    assert fetch == FetchSgd(CountSketch(D=3050, d=300, seed=5, rows=3), k=7, momentum=0.9, masking=False)
    assert built("true-top-k", *SGD, "method.k=7", "method.masking=false").masking is False
    assert built("local-top-k", "method.k=7", "method.error_feedback=false").settings["error_feedback"] is False
    assert built("random-k", "method.k=7").projection.d == 7
    with pytest.raises(ProjectionError, match="k = 9,999; choose from 1 to D = 3,050"):
        built("local-top-k", "method.k=9999")


@pytest.mark.parametrize("name", ["true-top-k", "fetchsgd"])
def test_methods_with_a_momentum_of_their_own_take_no_other_optimizer(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} keeps momentum and error itself, and steps as sgd does, not adam"):
        built(name, "optimizer.name=adam")
