"""The recipe's ways to scale a subspace, and what is wrong with a table."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from igc.errors import RecipeError, SpaceError
from igc.experiments.build import build_method
from igc.experiments.recipe import Recipe, load
from igc.methods import Calibrated, LocalSteps, Static, TimeVarying
from igc.projection import BlockedHadamard, Scaled
from igc.space import ParameterSpace

SPACE = ParameterSpace.from_shapes([("embeddings.word", (60, 50)), ("encoder.bias", (50,)), ("head", (2, 25))])
THETA = [torch.full((60, 50), -0.5), torch.full((50,), 1e-6), torch.full((2, 25), 2.0)]
TABLE = 'method.scale_table={"embeddings*"=1, "e*"=4}'


def built(*overrides: str, theta: list[torch.Tensor] | None = THETA) -> Any:
    recipe = load("movie-reviews-static", ["method.dim=8", *overrides])
    return build_method(recipe, SPACE, pass_rounds=7, seed=5, clients=9, theta=theta)


def plain() -> BlockedHadamard:
    return BlockedHadamard(D=SPACE.D, d=8, seed=5)


def test_without_scale_nothing_is_scaled() -> None:
    assert built().projection == plain()
    assert isinstance(built(), Static)


def test_a_table_gives_the_first_pattern_that_fits_and_one_elsewhere() -> None:
    method = built("method.scale=table", TABLE)
    assert method.projection == Scaled.of(plain(), (3000, 50, 50), (1.0, 4.0, 1.0))
    weights = method.projection.weights
    assert weights[1] == pytest.approx(4 * weights[0])
    assert weights[2] == weights[0]


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_weights_go_with_the_size_of_the_parameters(exponent: float) -> None:
    method = built("method.scale=weights", f"method.scale_exponent={exponent}", "method.scale_floor=0.1")
    weights = method.projection.weights
    assert weights[2] / weights[0] == pytest.approx(4**exponent)
    assert 0.09 < weights[1] <= 0.1
    assert method.projection.inner == plain()
    half = [tensor.half() for tensor in THETA]
    again = built("method.scale=weights", f"method.scale_exponent={exponent}", "method.scale_floor=0.1", theta=half)
    assert again.projection.digest == method.projection.digest
    assert built("method.scale=weights", theta=None).projection == plain()  # a rehearsal, which counts bytes


def test_below_zero_small_parameters_weigh_more_down_to_a_floor() -> None:
    sizes, roots = [t.numel() for t in THETA], [float(t.square().mean().sqrt()) for t in THETA]
    mean = math.sqrt(sum(n * root**2 for n, root in zip(sizes, roots, strict=True)) / sum(sizes))
    method = built("method.scale=weights", "method.scale_exponent=-0.5", "method.scale_floor=0.1")
    expected = [max(root, 0.1 * mean) ** -0.5 for root in roots]
    assert min(roots) < 0.1 * mean
    ratios = [weight / method.projection.weights[0] for weight in method.projection.weights]
    assert ratios == pytest.approx([e / expected[0] for e in expected])


def test_an_exponent_of_zero_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"scale_exponent: 0 leaves all as it is; set scale = 'none'"):
        built("method.scale=weights", "method.scale_exponent=0")


def test_a_tensor_that_starts_at_zero_tells_nothing_of_its_scale() -> None:
    """LoRA's B is one: at the floor it would not move, and without it A has no gradient."""
    theta = [THETA[0], torch.zeros(50), THETA[2]]
    weights = built("method.scale=weights", theta=theta).projection.weights
    assert weights[1] == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(4)
    mean_square = (3000 * weights[0] ** 2 + 50 * weights[2] ** 2) / 3050
    assert mean_square == pytest.approx(1)
    nothing = built("method.scale=weights", theta=[torch.zeros_like(tensor) for tensor in THETA])
    assert nothing.projection.weights == (1.0, 1.0, 1.0)


def test_calibration_is_around_all_else() -> None:
    method = built("method.scale=calibrated", "method.scale_exponent=0.5", "local={learning_rate=0.1}")
    assert isinstance(method, Calibrated)
    assert (method.sizes, method.exponent, method.floor) == ((3000, 50, 50), 0.5, 0.01)
    assert isinstance(method.inner, LocalSteps)
    varying = built("method.scale=calibrated", "method.name=time-varying")
    assert isinstance(varying.inner, TimeVarying)


def test_all_of_it_is_in_what_both_sides_must_agree_on() -> None:
    several = [
        built(),
        built("method.scale=calibrated"),
        built("method.scale=calibrated", "method.scale_exponent=0.5"),
        built("method.scale=calibrated", "method.scale_floor=0.5"),
        built("method.scale=weights"),
        built("method.scale=table", TABLE),
        built("method.scale=table", 'method.scale_table={"e*"=4}'),
    ]
    assert len({(method.digest, method.projection.digest) for method in several}) == len(several)


def test_a_table_survives_the_recipe_file() -> None:
    recipe = load("movie-reviews-static", ["method.scale=table", TABLE])
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.method.scale_table == {"embeddings*": 1.0, "e*": 4.0}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.scale=table"], "method.scale_table: missing, and scale = 'table' needs it"),
        (["method.scale=table", "method.scale_table={}"], "method.scale_table"),
        (["method.scale=table", 'method.scale_table={"head"=0}'], "method.scale_table.head"),
        (["method.scale=table", 'method.scale_table={"head"=-1.5}'], "method.scale_table.head"),
        (["method.scale=table", 'method.scale_table={"head"="big"}'], "method.scale_table.head"),
        ([TABLE], "method.scale_table: means nothing where scale = 'none'"),
        (["method.scale=table", TABLE, "method.scale_exponent=2"], "method.scale_exponent: means nothing"),
        (["method.scale=calibrated", "method.scale_exponent=0"], "method.scale_exponent"),
        (["method.scale=weights", "method.scale_floor=0"], "method.scale_floor"),
        (["method.name=fedsgd", "method.scale=calibrated"], "method.scale: means nothing where name = 'fedsgd'"),
        (["method.scale=measured"], "method.scale: "),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")) as caught:
        load("movie-reviews-static", overrides)
    assert "\n" not in str(caught.value)


def test_a_pattern_without_a_tensor_is_refused_with_names() -> None:
    with pytest.raises(SpaceError, match=r"matches 'decoder\*'; their names look like: embeddings.word, encoder.bias"):
        built("method.scale=table", 'method.scale_table={"e*"=2, "decoder*"=3}')
