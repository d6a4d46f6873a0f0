"""Budgets of dimensions, and tensors sent in full, from a recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from igc.errors import ProjectionError, RecipeError, SpaceError
from igc.experiments.build import build_method
from igc.experiments.recipe import Recipe, load
from igc.projection import BlockedHadamard, DirectSum, Identity, Scaled, to_dense
from igc.projection.philox import child_seed
from igc.space import ParameterSpace

SPACE = ParameterSpace.from_shapes(
    [("embeddings.word", (60, 5)), ("encoder.weight", (20, 20)), ("encoder.bias", (20,)), ("head", (2, 20))]
)


def built(*overrides: str) -> Any:
    recipe = load("movie-reviews", ["method.dim=8", *overrides])
    return build_method(recipe, SPACE, pass_rounds=7, seed=5, clients=9)


def test_without_groups_it_is_the_plain_projection() -> None:
    assert built().projection == BlockedHadamard(D=SPACE.D, d=8, seed=5)
    assert built("method.full_below=20").projection == BlockedHadamard(D=SPACE.D, d=8, seed=5)


def test_patterns_and_small_tensors_are_sent_in_full() -> None:
    found = built('method.full=["head"]', "method.full_below=21").projection
    parts = BlockedHadamard(D=700, d=8, seed=5), Identity(60, 60, 0)
    assert found == DirectSum(parts, (300, 400, 20, 40), (0, 0, 1, 1))
    assert found.d == 68
    A = to_dense(found)
    assert torch.equal(A[700:, 8:], torch.eye(60))
    assert not A[:700, 8:].any()
    assert not A[700:, :8].any()


def test_budgets_have_dimensions_and_seeds_of_their_own() -> None:
    method = built('method.budgets={"*.word"=5, "enc*"=3}')
    five = BlockedHadamard(D=300, d=5, seed=child_seed(5, 2**62 + 1))
    three = BlockedHadamard(D=420, d=3, seed=child_seed(5, 2**62 + 2))
    parts = BlockedHadamard(D=40, d=8, seed=5), five, three
    assert method.projection == DirectSum(parts, (300, 400, 20, 40), (1, 2, 2, 0))


@pytest.mark.parametrize("d", [41, 10_000])
def test_tensors_with_fewer_parameters_than_their_budget_are_sent_in_full(d: int) -> None:
    found = built(f'method.budgets={{"head"={d}, "enc*"=3}}').projection
    three = BlockedHadamard(D=420, d=3, seed=child_seed(5, 2**62 + 2))
    parts = BlockedHadamard(D=300, d=8, seed=5), Identity(40, 40, 0), three
    assert found == DirectSum(parts, (300, 400, 20, 40), (0, 2, 2, 1))


def test_scales_apply_on_top() -> None:
    found = built('method.full=["head"]', "method.scale=table", 'method.scale_table={"head"=3}').projection
    assert isinstance(found, Scaled)
    assert isinstance(found.inner, DirectSum)


def test_settings_survive_the_recipe_file() -> None:
    recipe = load("movie-reviews", ['method.budgets={"*.word"=5}', 'method.full=["head"]', "method.full_below=9"])
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (['method.full=["decoder"]'], SpaceError, "method.full: no trained parameter matches 'decoder'"),
        (['method.budgets={"decoder"=1}'], SpaceError, "method.budgets: no trained parameter matches 'decoder'"),
        (
            ['method.budgets={"enc*"=8, "encoder.weight"=4}'],
            ProjectionError,
            "method.budgets: 'encoder.weight' gets no tensor, since all that fit it are taken by 'enc*' before it;",
        ),
        (
            ['method.full=["*.weight"]', "method.full_below=21", 'method.budgets={"enc*"=4, "*bias"=3}'],
            ProjectionError,
            "method.budgets: 'enc*' gets no tensor, since all that fit it are taken by '*.weight' of method.full,"
            " full_below = 21;",
        ),
        (['method.full=["*"]'], ProjectionError, "none is left for method.dim"),
        (["method.full_below=301", "method.dim=401"], ProjectionError, "method.dim = 401 exceeds the 400 parameters"),
        (['method.budgets={"head"=0}'], RecipeError, "method.budgets.head"),
        (["method.name=k-subspace", 'method.full=["head"]'], RecipeError, "method.full: means nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(overrides: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        built(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
