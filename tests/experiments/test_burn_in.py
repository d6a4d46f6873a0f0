"""A burn-in by recipe: its keys, what does not go with it, and a run that is cut off in the midst of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from igc import load_adapter
from igc.codecs import CODECS
from igc.errors import ProjectionError, RecipeError
from igc.experiments.assemble import assemble
from igc.experiments.build import build_method
from igc.experiments.compare.one import Silent
from igc.experiments.export import export_adapter
from igc.experiments.recipe import Recipe, load
from igc.experiments.run import Run
from igc.methods import BurnIn, ErrorFeedback, LocalSteps, Static
from igc.projection import BlockedHadamard, Scaled
from igc.projection.philox import child_seed
from igc.space import ParameterSpace
from support.tiny import write_recipe
from test_resume import assert_equal_runs, copy_until

SPACE = ParameterSpace.from_shapes([("embeddings.word", (60, 50)), ("encoder.bias", (50,)), ("head", (2, 25))])
ON = "method.burn_in=20"


def built(*overrides: str) -> Any:
    recipe = load("movie-reviews-static", ["method.dim=32", *overrides])
    return build_method(recipe, SPACE, pass_rounds=7, seed=5, clients=9)


def test_the_recipes_method_begins_in_a_wide_subspace_and_ends_in_dim() -> None:
    method = built(ON)
    assert isinstance(method, BurnIn)
    assert isinstance(method.inner, Static)
    assert (method.rounds, method.learned) == (20, 4)
    assert method.wide == BlockedHadamard(D=SPACE.D, d=128, seed=child_seed(5, 1))
    assert method.rest == BlockedHadamard(D=SPACE.D, d=28, seed=child_seed(5, 2))
    assert method.projection == built().projection
    own = built(ON, "method.burn_in_dim=60", "method.learned=3", 'method.projection="partition"')
    assert (own.wide.d, own.rest.d, own.wide.family, own.rest.family) == (60, 29, "partition", "partition")
    assert built("method.burn_in=3").learned == 3


def test_it_is_around_all_else_and_scales_apply_to_both_matrices() -> None:
    method = built(ON, "local={learning_rate=0.1}", "codec.up=eden-1", "codec.error_feedback=true")
    assert isinstance(method, BurnIn)
    assert isinstance(method.inner, LocalSteps)
    assert isinstance(method.inner.inner, ErrorFeedback)
    scaled = built(ON, "method.scale=table", 'method.scale_table={"embeddings*"=0.2}')
    assert all(isinstance(p, Scaled) for p in (scaled.wide, scaled.rest, scaled.projection))
    assert scaled.wide.weights == scaled.rest.weights


def test_a_recipe_without_one_is_as_it_was() -> None:
    plain = load("movie-reviews-static")
    assert not {"burn_in", "burn_in_dim", "learned"} & plain.to_dict()["method"].keys()
    own = load("movie-reviews-static", [ON, "method.learned=3"])
    assert Recipe.from_dict(own.to_dict()) == own
    assert own.essence != plain.essence


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.learned=8"], "method.learned: means nothing without burn_in"),
        (["method.burn_in_dim=64"], "method.burn_in_dim: means nothing without burn_in"),
        (["method.burn_in=0"], "method.burn_in: must be at least 1, not 0"),
        ([ON, "method.learned=21"], "method.learned: 21 directions cannot be learned in burn_in = 20 rounds"),
        ([ON, "method.dim=4"], "method.learned: 4 directions are too many for dim = 4"),
        ([ON, "method.learned=8", "method.dim=8"], "method.learned: 8 directions are too many for dim = 8"),
        ([ON, "method.burn_in_dim=3"], "method.learned: 4 directions are too many for burn_in_dim = 3"),
        ([ON, "federation.rounds=20"], "method.burn_in: 20 rounds leave none of the 20 of federation.rounds"),
        ([ON, "method.name=time-varying"], "method.burn_in: means nothing where name = 'time-varying'"),
        ([ON, "method.scale=calibrated"], "method.burn_in: does not go with scale = 'calibrated'"),
        ([ON, 'method.full=["head"]'], "method.burn_in: does not go with full"),
        ([ON, "method.full_below=60"], "method.burn_in: does not go with full_below"),
        ([ON, 'method.budgets={"head"=3}'], "method.burn_in: does not go with budgets"),
        (
            [ON, "aggregation.norm_bound=1", "aggregation.max_weight=8"],
            "method.burn_in: has rounds with longer uploads",
        ),
        ([ON, "aggregation.rule=median"], "method.burn_in: has rounds with longer uploads"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")) as caught:
        load("movie-reviews-static", overrides)
    assert "\n" not in str(caught.value)


def test_a_subspace_wider_than_the_model_is_refused() -> None:
    with pytest.raises(ProjectionError, match=r"method.burn_in_dim = 4 x method.dim = 4,000, its default, exceeds"):
        built(ON, "method.dim=1000")
    with pytest.raises(ProjectionError, match=r"method.burn_in_dim = 4,000 exceeds the model's 3,100"):
        built(ON, "method.burn_in_dim=4000")


SETTINGS: dict[str, dict[str, Any]] = {
    "method": {"name": "static", "dim": 24, "burn_in": 5, "burn_in_dim": 64, "learned": 4},
    "optimizer": {"name": "adam", "learning_rate": 0.02, "schedule": "cosine", "warmup_rounds": 2},
    "codec": {"up": "eden-1", "error_feedback": True},
    "federation": {"rounds": 10, "clients_per_round": 4, "batch_size": 6, "sampling": "uniform", "client_dropout": 0.2},
    "checkpoint": {"every": 1, "keep": 20},
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("tiny")
    Run.create(load(write_recipe(folder, **SETTINGS)), folder / "straight").train(Silent())
    return folder / "straight"


@pytest.mark.parametrize("rounds", [2, 5, 8])
def test_a_run_cut_off_before_at_and_after_its_end_goes_on_the_same(
    rounds: int, straight: Path, tmp_path: Path
) -> None:
    folder = copy_until(straight, tmp_path / "run", rounds)
    Run.open(folder).train(Silent())
    assert_equal_runs(folder, straight)


def test_the_ledger_has_the_basis_of_each_client(straight: Path) -> None:
    seen: set[str] = set()
    for line in (straight / "ledger.jsonl").read_text().splitlines():
        record = json.loads(line)
        late = record["round"] > SETTINGS["method"]["burn_in"]
        for client, traffic in record["clients"].items():
            basis = CODECS["float16"].length((4, 64)) + 4 * 64
            expected = 4 * (24 if late else 64) + (basis if late and client not in seen else 0)
            assert expected < traffic["down"] < expected + 110
            if late and traffic["up"]:
                seen.add(client)


def test_the_adapter_holds_the_two_sigmas_and_no_direction(straight: Path, tmp_path: Path) -> None:
    run = Run.open(straight)
    experiment = run.restore(pytest.fail)
    adapter = export_adapter(experiment, tmp_path)
    assert adapter.stat().st_size < 4 * (64 + 20) + 2500
    expected = experiment.evaluate()["test"]
    fresh = assemble(load(straight / "recipe.toml"))
    model = load_adapter(fresh.model, adapter)
    assert fresh.task.evaluate(model, fresh.evaluation["test"]) == expected
