"""Who takes part, and with which settings."""

from __future__ import annotations

import pytest

from igc.errors import RecipeError
from igc.experiments.compare.entrant import RATE
from igc.experiments.compare.entrants import ENTRANTS, entrants, everybody, fitting
from igc.experiments.recipe import Recipe, load, shipped

LORA = ("fedavg-lora", "ffa-lora", "uni-lora")


@pytest.mark.parametrize("name", ENTRANTS)
@pytest.mark.parametrize(
    "recipe", ["movie-reviews", "movie-reviews-fedsgd", "shakespeare", "fashion-mnist-static", "cifar10"]
)
def test_every_entrant_fits_a_recipe_and_is_set_as_it_says(name: str, recipe: str) -> None:
    base, entrant = load(recipe), ENTRANTS[name]
    if base.task.name == "image-classification" and name in LORA:
        with pytest.raises(RecipeError, match=r"model\.lora_rank"):
            entrant.recipe(base, 0.125, {})
        return
    made = entrant.recipe(base, 0.125, {"federation.rounds": 3, "seed": 9})
    for key, value in {**entrant.settings, entrant.tuned: 0.125}.items():
        section, _, leaf = key.partition(".")
        if not leaf:
            assert value is None
            continue
        default = type(getattr(made, section)).model_fields[leaf].default
        assert getattr(getattr(made, section), leaf) == (default if value is None else value)
    assert (made.seed, made.federation.rounds) == (9, 3)
    assert made.optimizer.warmup_rounds <= 3
    assert made.data == base.data
    assert entrant.first_rate(base) > 0


def test_what_a_recipe_adds_to_its_method_is_its_own() -> None:
    tree = load("movie-reviews").to_dict()
    tree["codec"] = {"up": "eden-1", "down": "eden-4"}
    tree["method"] |= {"full": ["classifier.*"], "scale": "weights"}
    tree["local"] = {"learning_rate": 0.1, "batch_size": 2}
    base = Recipe.from_dict(tree)
    itself = ENTRANTS["recipe"].recipe(base, 0.125, {})
    assert (itself.codec, itself.method, itself.local) == (base.codec, base.method, base.local)
    assert ENTRANTS["fedsgd"].recipe(base, 0.125, {}).local is None
    fedavg = ENTRANTS["fedavg"].recipe(base, 0.125, {}).local
    assert fedavg is not None
    assert (fedavg.learning_rate, fedavg.batch_size) == (0.125, 8)
    for name in ("static", "time-varying", "gpart"):
        published = ENTRANTS[name].recipe(base, 0.125, {})
        assert (published.codec.up, published.codec.down) == ("float32", "float32")
        assert (published.method.full, published.method.scale) == ((), "none")
        assert published.method.dim == base.method.dim


def test_another_optimizer_in_place_of_an_entrants_sgd() -> None:
    [changed] = entrants(["local-top-k+optimizer.name=adam"])
    assert changed.recipe(load("movie-reviews"), 1e-3, {}).optimizer.name == "adam"


def test_there_is_an_entrant_for_every_shipped_method() -> None:
    names = {entrant.recipe(load("movie-reviews"), 0.1, {}).method.name for entrant in ENTRANTS.values()}
    assert {load(recipe.name).method.name for recipe in shipped()} <= names


def test_settings_after_a_plus() -> None:
    plain, small, rated = entrants(["static", "static+method.dim=64", f"static+method.dim=32+{RATE}=0.25"])
    base = load("movie-reviews")
    assert plain.recipe(base, 1e-3, {}).method.dim == base.method.dim
    assert small.recipe(base, 1e-3, {}).method.dim == 64
    assert small.name == "static+method.dim=64"
    assert rated.first_rate(base) == 0.25
    assert rated.recipe(base, 0.5, {}).optimizer.learning_rate == 0.5


def test_a_name_that_is_not_known_or_comes_twice_is_refused() -> None:
    with pytest.raises(
        RecipeError, match=r"no method 'statc' to compare \(did you mean 'static'\?\); known: recipe, static"
    ):
        entrants(["statc"])
    with pytest.raises(RecipeError, match="'static' is named twice"):
        entrants(["static", "static"])


def test_a_setting_that_does_not_fit_names_the_method() -> None:
    (wrong,) = entrants(["fedsgd+method.dim=3"])
    with pytest.raises(RecipeError, match=r"method fedsgd\+method\.dim=3: method\.dim: means nothing"):
        wrong.recipe(load("movie-reviews"), 0.1, {})


@pytest.mark.parametrize("recipe", ["fashion-mnist", "fashion-mnist-mlp", "movie-reviews"])
def test_of_all_those_take_part_that_fit_and_the_others_say_why(recipe: str) -> None:
    base = load(recipe)
    fit, misfits = fitting(everybody(), base, 3)
    left_out = {name: why for why, names in misfits.items() for name in names}
    assert {entrant.name for entrant in fit} | left_out.keys() == ENTRANTS.keys() - {"recipe"}
    assert set(left_out) == (set(LORA) if base.task.name == "image-classification" else set())
    assert all("lora" in why and "\n" not in why for why in left_out.values())
    for entrant in fit:
        entrant.recipe(base, entrant.first_rate(base), {"federation.rounds": 3})


def test_what_the_user_set_for_all_stays_but_where_it_is_an_entrants_point() -> None:
    settings = ["codec.up=int8", "codec.down=float16", "method.scale=calibrated", "local={learning_rate=0.5}"]
    keys = [text.partition("=")[0] for text in settings]
    base = load("movie-reviews", settings)
    for entrant in everybody(keys):
        recipe = entrant.recipe(base, 0.125, {})
        point = ENTRANTS[entrant.name].settings["codec.up"]
        assert recipe.codec.up == (point or "int8")
        assert recipe.codec.down == "float16"
        subspace = recipe.method.name in ("static", "time-varying", "k-subspace")
        assert recipe.method.scale == ("calibrated" if subspace else "none")
        assert recipe.local is not None
        assert recipe.local.learning_rate == (0.125 if entrant.tuned.startswith("local.") else 0.5)
    (other,) = entrants(["static+codec.up=eden-2"], keys)
    assert other.recipe(base, 0.125, {}).codec.up == "eden-2"
    (one_key,) = entrants(["static"], ["codec.down", "local.learning_rate"])
    made = one_key.recipe(base, 0.125, {})
    assert (made.codec.up, made.codec.down, made.local, made.method.scale) == ("float32", "float16", base.local, "none")
    (whole,) = entrants(["static"], ["codec"])
    assert whole.recipe(base, 0.125, {}).codec == base.codec


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("federation.rounds=7", "--rounds"),
        ("federation={rounds=7,clients_per_round=3}", "--rounds"),
        ("seed=3", "--seeds"),
        (
            'evaluation.splits=["validation"]',
            "--set evaluation.splits=..., or name the one that chooses by --validation",
        ),
        ('evaluation={splits=["validation"]}', "--validation"),
    ],
)
def test_what_is_the_same_for_all_is_no_entrants_own(setting: str, remedy: str) -> None:
    with pytest.raises(RecipeError, match="all methods of a comparison have the same") as caught:
        entrants([f"static+{setting}"])
    assert remedy in str(caught.value)


def test_other_settings_of_the_same_sections_are_an_entrants_own() -> None:
    found = entrants(["static+evaluation.every=2", "static+evaluation={every=3}", "static+federation.batch_size=1"])
    recipes = [entrant.recipe(load("movie-reviews"), 0.1, {"evaluation.splits": ["test"]}) for entrant in found]
    assert [recipe.evaluation.every for recipe in recipes[:2]] == [2, 3]
    assert recipes[2].federation.batch_size == 1


@pytest.mark.parametrize(
    "name",
    ['static+optimizer={name="sgd",learning_rate=0.25}', "fedavg+local={learning_rate=0.25,epochs=2}"],
)
def test_a_rate_within_a_table_is_where_tuning_starts_too(name: str) -> None:
    (entrant,) = entrants([name])
    base = load("movie-reviews")
    assert entrant.first_rate(base) == 0.25
    recipe = entrant.recipe(base, 0.5, {})
    assert (recipe.optimizer.learning_rate if entrant.tuned == RATE else recipe.local.learning_rate) == 0.5  # type: ignore[union-attr]
