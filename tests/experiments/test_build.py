"""From a recipe's settings to methods."""

from __future__ import annotations

from typing import Any

import pytest

from igc.errors import ProjectionError, RecipeError
from igc.experiments.assemble import schedule_of
from igc.experiments.build import build_method
from igc.experiments.recipe import load
from igc.methods import (
    ErrorFeedback,
    FetchSgd,
    LocalSteps,
    LocalTopK,
    Plateau,
    PowerSgd,
    RandomK,
    Scaffold,
    Static,
    TimeVarying,
    TrueTopK,
    ZerothOrder,
)
from igc.optim import Adagrad, Adam, Schedule, ServerOptimizer, Sgd, Yogi
from igc.projection import BlockedHadamard, Coordinates, CountSketch, DenseGaussian
from igc.space import ParameterSpace

SPACE = ParameterSpace.from_shapes([("a", (60, 50)), ("b", (50,))])
LOCAL = "local.learning_rate=0.1"


def built(name: str, *overrides: str) -> Any:
    recipe = load("movie-reviews-static", [f"method.name={name}", *overrides])
    return build_method(recipe, SPACE, pass_rounds=7, seed=5, clients=9)


def test_powersgd_takes_the_shapes_of_the_space() -> None:
    method = built("powersgd", "method.rank=3", "method.error_feedback=false")
    assert isinstance(method, PowerSgd)
    assert (method.shapes, method.rank, method.error_feedback, method.seed) == (((60, 50), (50,)), 3, False, 5)
    assert (method.up, built("powersgd", "codec.up=int8").up) == ("float32", "int8")


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method.dim=64"], r"^method.block = 32 is less than 64, the dimensions of a subspace; Fastfood has"),
        (["method.dim=8", "method.burn_in=4", "method.burn_in_dim=40"], r"less than 40, .* that method.burn_in or"),
        (["method.dim=8", 'method.budgets={"a"=50}'], r"less than 50, .* that method.burn_in or method.budgets asks"),
    ],
)
def test_a_block_that_is_too_small_for_fastfood_is_named(settings: list[str], message: str) -> None:
    with pytest.raises(ProjectionError, match=message):
        built("static", "method.projection=fastfood", "method.block=32", *settings)


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
    assert built("local-top-k", "codec.up=int8") == LocalTopK.of(3050, built("fedsgd").optimizer, k=23, up="int8")
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


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        (["name=adam"], Adam(0.9, 0.999)),
        (["name=adam", "beta2=0.9"], Adam(0.9, 0.9)),
        (["name=yogi", "epsilon=0.001"], Yogi(0.9, 0.99, 1e-3)),
        (["name=adagrad"], Adagrad(1e-8)),
        (["name=sgd", "momentum=0.5"], Sgd(0.5)),
    ],
)
def test_the_servers_optimizer_is_the_one_that_was_asked_for(settings: list[str], optimizer: ServerOptimizer) -> None:
    method = built("static", "method.dim=8", *(f"optimizer.{setting}" for setting in settings))
    assert method.optimizer == optimizer


def test_changes_of_subspace_are_by_rounds_or_on_a_plateau() -> None:
    small = "method.dim=8"
    assert built("time-varying", small) == TimeVarying(built("static", small), 7)
    ruled = built("time-varying", small, "method.change=plateau", "method.patience=5", "method.moments=carry-over")
    assert ruled == TimeVarying(built("static", small), None, Plateau(5, 0.01), "carry-over")
    most = built("time-varying", small, "method.change=plateau", "method.rounds_per_epoch=40")
    assert (most.rounds_per_epoch, most.plateau) == (40, Plateau(20, 0.01))


def test_error_feedback_is_of_what_is_uploaded_and_control_variates_of_local_steps() -> None:
    small, lossy = "method.dim=8", ("codec.up=lloyd-1", "codec.error_feedback=true")
    method = built("static", small, *lossy, LOCAL, "local.epochs=3")
    assert method == LocalSteps(ErrorFeedback(built("static", small), "lloyd-1"), 0.1, 3)
    controlled = ("local.control_variates=true", "federation.weights=uniform")
    drifting = built("static", small, *lossy, LOCAL, *controlled, "local.batch_size=2")
    assert drifting == Scaffold(ErrorFeedback(built("static", small), "lloyd-1"), 0.1, 9, 1, 2, up="lloyd-1")


def rates(rounds: int, *overrides: str) -> list[float]:
    schedule = schedule_of(load("movie-reviews-static", [*overrides, "optimizer.learning_rate=1.0"]), pass_rounds=7)
    return [schedule(round) for round in range(rounds)]


def test_schedules_restart_as_asked() -> None:
    cosine = ("optimizer.schedule=cosine", "optimizer.warmup_rounds=1", "optimizer.final_fraction=0.0")
    cycles = rates(15, *cosine, "optimizer.restarts=rounds", "optimizer.cycle=5")
    assert cycles[:5] == cycles[5:10] == cycles[10:]
    # From a change on, the schedule is over when the subspace is.
    passing = rates(8, "method.name=time-varying", *cosine, "optimizer.restarts=change")
    assert passing == [*(Schedule(1.0, 7, "cosine", 1)(round) for round in range(8))]
    longer = rates(8, "method.name=time-varying", "method.rounds_per_epoch=8", *cosine, "optimizer.restarts=change")
    assert longer[-1] > passing[-1] == 0
    assert rates(8, *cosine)[-1] > 0.9  # of all rounds


def test_a_warm_up_ends_before_a_pass_does_where_each_is_a_subspace() -> None:
    change = ("method.name=time-varying", "optimizer.restarts=change")
    assert max(rates(7, *change, "optimizer.warmup_rounds=7")) == 1
    with pytest.raises(RecipeError, match="8 is more than the 7 rounds of one pass"):
        rates(7, *change, "optimizer.warmup_rounds=8")
    plateau = ("method.change=plateau", "optimizer.schedule=constant", "optimizer.warmup_rounds=8")
    assert max(rates(8, *change, *plateau)) == 1  # which may last for longer than a pass
