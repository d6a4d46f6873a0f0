"""What a tuning may draw: recipes that are valid, within limits, and never a key that the user set."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igc.codecs import CODECS
from igc.experiments.recipe import Recipe, load, shipped
from igc.experiments.tune.budget import Budget, Rehearsal
from igc.experiments.tune.draws import Cheapest, Told
from igc.experiments.tune.space import AS_IS, DOWNLOADS, METHODS, UPLOADS, SearchSpace, changed
from igc.space import ParameterSpace
from igc.tasks import build_task

BASE = load("movie-reviews-static")


@dataclass
class Dice:
    """A trial that draws at random, or what it is told."""

    seed: int
    told: dict[str, Any] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    def _one(self, name: str, choices: tuple[Any, ...], drawn: Any) -> Any:
        self.names[name] = choices
        return self.told.get(name, drawn)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._one(name, tuple(choices), self.draw.choice(choices))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self._one(name, (low, high), self.draw.randint(low, high)))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        assert log
        return float(self._one(name, (low, high), math.exp(self.draw.uniform(math.log(low), math.log(high)))))


@given(seed=st.integers(0, 2**32), rounds=st.integers(5, 300))
def test_everything_that_is_drawn_is_a_recipe(seed: int, rounds: int) -> None:
    space = SearchSpace.within(BASE, frozenset(), D=22_000_000, bytes_a_message=50_000)
    choice = space.draw(Dice(seed))
    recipe = choice.recipe(BASE, rounds)
    assert recipe.federation.rounds == rounds
    assert recipe.method.name in METHODS
    assert recipe.codec.up in {*UPLOADS, BASE.codec.up}
    assert recipe.codec.down in {*DOWNLOADS, BASE.codec.down}
    assert 64 <= recipe.method.dim <= 50_000 * 8 / 4  # one bit up, three down
    assert math.log2(recipe.method.dim).is_integer()
    assert recipe.optimizer.warmup_rounds <= math.ceil(0.1 * rounds)
    if recipe.method.name == "time-varying":
        assert recipe.method.rounds_per_epoch is not None
        assert 2 <= math.ceil(rounds / recipe.method.rounds_per_epoch) <= 8
    if recipe.local is not None:
        assert recipe.local.batch_size == BASE.federation.batch_size
        assert recipe.federation.batch_size in (2 * recipe.local.batch_size, 4 * recipe.local.batch_size)  # type: ignore[operator]
    else:
        assert recipe.federation.batch_size == BASE.federation.batch_size
    assert recipe.data == BASE.data


@given(seeds=st.lists(st.integers(0, 2**32), min_size=2, max_size=6))
def test_a_name_has_the_same_choices_in_every_trial(seeds: list[int]) -> None:
    space = SearchSpace.within(BASE, frozenset(), D=22_000_000, bytes_a_message=50_000)
    known: dict[str, Any] = {}
    for seed in seeds:
        dice = Dice(seed)
        space.draw(dice)
        assert all(known.setdefault(name, choices) == choices for name, choices in dice.names.items())


SET = [
    "method.name=k-subspace",
    "method.dim=100",
    "codec.up=int4",
    "optimizer.learning_rate=0.5",
    "optimizer.schedule=linear",
    "optimizer.warmup_rounds=3",
    "local={learning_rate=0.1}",
]


@given(seed=st.integers(0, 2**32))
def test_what_the_user_set_stays(seed: int) -> None:
    base = load("movie-reviews-static", SET)
    keys = frozenset(text.partition("=")[0] for text in SET)
    dice = Dice(seed)
    recipe = SearchSpace.within(base, keys, 22_000_000, 50_000).draw(dice).recipe(base, 20)
    assert (recipe.method.name, recipe.method.dim, recipe.codec.up) == ("k-subspace", 100, "int4")
    assert (recipe.optimizer.learning_rate, recipe.optimizer.schedule, recipe.optimizer.warmup_rounds) == (
        0.5,
        "linear",
        3,
    )
    assert recipe.local == base.local
    assert dice.names.keys() - {"method.scale_exponent"} == {"method.subspaces", "codec.down", "method.scale"}


IMAGES = load("fashion-mnist")  # whose tensors have dimensions in groups


@pytest.fixture(scope="module")
def rehearsal() -> Rehearsal:
    model = build_task(IMAGES.task, IMAGES.model, 0).model()
    return Rehearsal(ParameterSpace.of(model), [str(client) for client in range(100)])


@pytest.mark.parametrize("power", [6, 9, 14])
def test_what_a_message_holds_is_the_d_that_was_drawn(power: int, rehearsal: Rehearsal) -> None:
    space = SearchSpace.within(IMAGES, frozenset(), rehearsal.space.D, bytes_a_message=20_000)
    told = {"method.name": "static", "method.scale": "none", "dimensions": "drawn", "method.dim, power of two": power}
    recipe = space.draw(Dice(power, told)).recipe(IMAGES, 20)
    numbers = (2**power,)
    payload = CODECS[recipe.codec.up].length(numbers) + CODECS[recipe.codec.down].length(numbers)
    spent = rehearsal.plan(recipe, Budget(10**9), 1).bytes / recipe.federation.clients_per_round
    assert payload < spent < payload + 400  # two headers


@given(seed=st.integers(0, 2**32))
def test_groups_come_with_the_d_that_they_were_made_for(seed: int) -> None:
    space = SearchSpace.within(IMAGES, frozenset(), 1_640_000, bytes_a_message=200_000)
    dice = Dice(seed)
    method = space.draw(dice).recipe(IMAGES, 20).method
    own = IMAGES.method
    if method.dim == own.dim:
        assert method.name in ("static", "time-varying")
        assert (method.full, method.full_below, method.budgets) == (own.full, own.full_below, own.budgets)
    else:
        assert (method.full, method.full_below, method.budgets) == ((), None, None)
    assert ("dimensions" in dice.names) == (method.name != "k-subspace")


def test_groups_that_no_budget_pays_are_not_offered() -> None:
    space = SearchSpace.within(IMAGES, frozenset(), 1_640_000, bytes_a_message=4_000)
    assert not space.own_dimensions
    assert space.draw(Told(space.own())).recipe(IMAGES, 20).method.budgets is None


@given(seed=st.integers(0, 2**32))
def test_groups_that_the_user_set_stay(seed: int) -> None:
    base = load("fashion-mnist", ['method.full=["linear.*"]'])
    space = SearchSpace.within(base, frozenset({"method.full"}), 1_640_000, bytes_a_message=4_000)
    recipe = space.draw(Dice(seed)).recipe(base, 20)
    assert (recipe.method.full, recipe.method.budgets) == (("linear.*",), None)
    assert space.own()["method.name"] in space.methods
    fixed = load("fashion-mnist", ["method.dim=512", "method.name=static"])
    pinned = frozenset({"method.dim", "method.name"})
    whole = SearchSpace.within(fixed, pinned, 1_640_000, bytes_a_message=4_000).draw(Dice(seed)).recipe(fixed, 20)
    assert (whole.method.full, whole.method.budgets) == (IMAGES.method.full, IMAGES.method.budgets)


def like(name: str, **changes: Any) -> Recipe:
    return changed(load(name), {key.replace("__", "."): value for key, value in changes.items()})


OWN = {
    **{recipe.name: load(recipe.name) for recipe in shipped() if recipe.name != "movie-reviews-fedsgd"},
    "burn-in": like("movie-reviews", method__burn_in=20, method__learned=8),
    "rates that end on no third digit": like("movie-reviews", optimizer__learning_rate=0.00123456),
    "feedback at eight bits": like("movie-reviews", codec__up="int8", codec__error_feedback=True),
    "feedback in turn": like("movie-reviews-time-varying", codec__up="eden-1", codec__error_feedback=True),
    "table": like("movie-reviews", method__scale="table", method__scale_table={"*norm*": 0.1}),
    "weights": like("movie-reviews", method__scale="weights", method__scale_exponent=0.7),
    "restarts": like("movie-reviews", optimizer__restarts="rounds", optimizer__cycle=25),
    "restarts at changes": like(
        "movie-reviews-time-varying", optimizer__restarts="change", optimizer__schedule="constant"
    ),
    "K": like("movie-reviews-k-subspace", method__subspaces=7),
    "K in turn": like("movie-reviews", method__name="k-subspace-time-varying", method__rounds_per_epoch=9),
    "codecs": like("movie-reviews", codec__up="qsgd-4", codec__down="bfloat16"),
    "local": like(
        "movie-reviews",
        local={"optimizer": "sgd", "learning_rate": 0.1, "control_variates": True},
        federation__weights="uniform",
    ),
    "secure": like("movie-reviews-static", secure={"max_weight": 90}, aggregation={"norm_bound": 1.0}),
}


@pytest.mark.parametrize("name", OWN)
def test_the_recipe_itself_is_drawn(name: str) -> None:
    base = OWN[name]
    space = SearchSpace.within(base, frozenset(), 22_000_000, bytes_a_message=10**6)
    rounds = base.federation.rounds
    told = space.own()
    dice = Dice(0, told)
    assert space.draw(Told(told)).recipe(base, rounds) == space.draw(dice).recipe(base, rounds) == base
    for key, value in told.items():  # and by names and values that Optuna takes
        if isinstance(choices := dice.names.get(key), tuple):
            low_high = key.endswith("power of two") or key.endswith("rate")
            assert choices[0] <= value <= choices[1] if low_high else value in choices


@pytest.mark.parametrize("name", OWN)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_what_is_drawn_from_any_recipe_fits(name: str, seed: int) -> None:
    base = OWN[name]
    space = SearchSpace.within(base, frozenset(), 22_000_000, bytes_a_message=10**6)
    space.draw(Dice(seed)).recipe(base, base.federation.rounds)


@given(seed=st.integers(0, 2**32))
def test_local_training_as_the_recipe_has_it_goes_with_everything_else(seed: int) -> None:
    space = SearchSpace.within(IMAGES, frozenset(), 1_640_000, bytes_a_message=200_000)
    recipe = space.draw(Dice(seed, {"local steps": AS_IS})).recipe(IMAGES, 20)
    assert (recipe.local, recipe.federation.batch_size) == (IMAGES.local, IMAGES.federation.batch_size)


def test_a_burn_in_that_the_user_set_is_no_other_methods() -> None:
    base = load("movie-reviews", ["method.burn_in=20"])
    assert SearchSpace.within(base, frozenset({"method.burn_in"}), 22_000_000, 10**6).methods == ("static",)


def test_the_cheapest_takes_the_fewest_bits() -> None:
    base = like("movie-reviews", codec__down="eden-1")
    drawn = SearchSpace.within(base, frozenset(), 22_000_000, 10**6).draw(Cheapest()).recipe(base, 20)
    assert (drawn.method.dim, drawn.codec.up, drawn.codec.down) == (64, "lloyd-1", "eden-1")


def test_near_the_recipe_is_the_recipe_at_the_largest_d_that_pays() -> None:
    space = SearchSpace.within(BASE, frozenset(), D=22_000_000, bytes_a_message=80_000)
    near = space.own_at(bytes_a_message=8 * 1024 + 300)  # float32 both ways
    recipe = space.draw(Dice(0, near)).recipe(BASE, BASE.federation.rounds)
    assert recipe == changed(BASE, {"method.dim": 1024})


@pytest.mark.parametrize(
    ("D", "affordable", "powers"), [(200, 1e6, (5, 5)), (10**6, 20, (5, 5)), (10**8, 1e9, (6, 20))]
)
def test_limits_of_small_models_and_small_budgets(D: int, affordable: float, powers: tuple[int, int]) -> None:
    assert SearchSpace.within(BASE, frozenset(), D, affordable).powers == powers
