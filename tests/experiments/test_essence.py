"""What of a recipe a run cannot change half-way is what docs/recipes.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from igc.errors import RunError
from igc.experiments.assemble import assemble
from igc.experiments.compare.one import Silent
from igc.experiments.contents import CHECKPOINTS
from igc.experiments.recipe import ESSENTIAL, Recipe, load
from igc.experiments.run import Run, _restore
from igc.experiments.settings import LocalSettings, Section
from igc.experiments.shelter import PrivacySettings, SecuritySettings
from igc.tasks import ImageClassificationSettings, LanguageModellingSettings, TextClassificationSettings
from support.tiny import write_recipe

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
BASE = load("movie-reviews")
# Sections that need not be there, the kinds of task, and a model with LoRA layers, for their keys.
OPTIONAL: dict[str, list[BaseModel]] = {
    "model": [BASE.model.model_copy(update={"lora_rank": 4})],
    "local": [LocalSettings(learning_rate=0.1)],
    "privacy": [PrivacySettings(noise_multiplier=1.0, delta=1e-5)],
    "secure": [SecuritySettings()],
    "task": [TextClassificationSettings(), LanguageModellingSettings(), ImageClassificationSettings()],
}


def fixed_by_the_docs() -> dict[str, bool]:
    """Key -> whether it may not change, by the table; of a section alone, what holds for keys that are not named."""
    text = DOCS.read_text()
    rows = re.findall(r"^\| (.*?)\|(.*?)\|(.*?)\|$", text[text.index("| section | may not change |") :], re.MULTILINE)
    found: dict[str, bool] = {}
    for sections, fixed, free in rows[1:]:
        for section in re.findall(r"\[(\w+)\]", sections) or [""]:
            for cell, verdict in ((fixed, True), (free, False)):
                if re.match(r" *all (of it|the rest)", cell):
                    found[section] = verdict
                else:
                    found |= {f"{section}.{key}".removeprefix("."): verdict for key in re.findall(r"`(\w+)`", cell)}
        if sections.strip().startswith("`[evaluation]`"):
            break
    return found


def another(value: Any, annotation: Any) -> object:
    """A value of the same kind that differs."""
    choices = [choice for part in unfolded(annotation) for choice in part]
    if literal := [choice for choice in choices if choice != value and not isinstance(choice, type)]:
        return literal[0]
    kind = type(value) if value is not None else next(choice for choice in choices if choice is not type(None))
    if issubclass(kind, int | float) and kind is not bool:
        return kind(7) if value is None else kind(value + 1)
    longer = (*value, value[0]) if isinstance(value, tuple) and value else ("x",)
    others: dict[type, Any] = {bool: not value, dict: {"x": 1}, tuple: longer, str: f"{value}x"}
    return Path("elsewhere") if issubclass(kind, Path) else others[kind]


def unfolded(annotation: Any) -> Iterator[tuple[Any, ...]]:
    """Literals and plain classes of an annotation."""
    if get_origin(annotation) is Literal:
        yield get_args(annotation)
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from unfolded(part)
    elif get_origin(annotation) in (dict, tuple):
        yield (get_origin(annotation),)
    elif hasattr(annotation, "__metadata__"):
        yield from unfolded(annotation.__origin__)
    else:
        yield (annotation,)


def pairs() -> Iterator[tuple[str, Recipe, Recipe]]:
    """Every key of a recipe, with two recipes that differ in it alone."""
    for name, field in Recipe.model_fields.items():
        value = getattr(BASE, name)
        sections = OPTIONAL.get(name, [value])
        if not isinstance(sections[0], BaseModel):
            yield name, BASE, BASE.model_copy(update={name: another(value, field.annotation)})
            continue
        for section in sections:
            for key, inner in type(section).model_fields.items():
                if key == "name" and name == "task":
                    continue  # each has its own
                applies = type(section).applies.get(key, {}) if isinstance(section, Section) else {}
                there = section.model_copy(update={other: allowed[0] for other, allowed in applies.items()})
                changed = there.model_copy(update={key: another(getattr(there, key), inner.annotation)})
                yield f"{name}.{key}", BASE.model_copy(update={name: there}), BASE.model_copy(update={name: changed})


@pytest.mark.parametrize(("key", "one", "other"), [pytest.param(*pair, id=pair[0]) for pair in pairs()])
def test_a_key_is_fixed_where_the_docs_say_so(key: str, one: Recipe, other: Recipe) -> None:
    said = fixed_by_the_docs()
    section = key.partition(".")[0]
    assert (one.essence != other.essence) == said.get(key, said.get(section))


def test_a_section_that_is_switched_on_is_a_change() -> None:
    for name in ("local", "privacy", "secure"):
        assert BASE.model_copy(update={name: OPTIONAL[name][0]}).essence != BASE.model_copy(update={name: None}).essence


def test_the_error_names_all_that_the_docs_do() -> None:
    for key, fixed in fixed_by_the_docs().items():
        section, _, name = key.rpartition(".")
        if fixed:
            assert (name or section) in ESSENTIAL and section in ESSENTIAL


def test_what_may_change_goes_on_and_the_rest_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "tiny", federation={"rounds": 2}, local={"learning_rate": 0.1})
    Run.create(load(path), tmp_path / "run").train(Silent())

    def goes_on(*settings: str) -> bool:
        try:
            _restore(assemble(load(path, settings)), tmp_path / "run" / CHECKPOINTS, pytest.fail, to_train=True)
        except RunError as error:
            assert f"what differs is of {ESSENTIAL}; put that back" in str(error)
            return False
        return True

    assert goes_on()
    assert goes_on("title=Other", "federation.rounds=9", "federation.clip_norm=1.0", "federation.non_finite=skip")
    assert goes_on("optimizer.learning_rate=0.5", "optimizer.schedule=cosine", "optimizer.beta1=0.5")
    assert goes_on("evaluation.max_examples=3", "checkpoint.keep=1", "federation.client_dropout=0.5")
    for setting in (
        "local.learning_rate=0.2", "codec.up=int8", "method.dim=32", "seed=6", "federation.weights=uniform",
        "federation.clients_per_round=3", "space.exclude=['*bias']", "aggregation.rule=median", "task.max_tokens=8",
        "data.options.validation=10",
    ):  # fmt: skip
        assert not goes_on(setting), setting
