"""The recipe: one TOML file that names all that a run depends on.

A recipe is validated whole: :class:`~igc.errors.RecipeError` lists every fault found, each with its place, the
offending value and what to do. Shipped recipes lie in ``igc/recipes``; line 1 of each is the command that runs it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import takewhile
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, NamedTuple, Self

import tomli_w
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from igc.data import DEALT_BY, SOURCES, DataSettings
from igc.errors import RecipeError, did_you_mean
from igc.experiments.faults import faults
from igc.experiments.metrics import METRICS
from igc.experiments.settings import (
    NEEDS_METHOD,
    SERVER_FEEDBACK,
    CheckpointSettings,
    CodecSettings,
    EvaluationSettings,
    FederationSettings,
    LocalSettings,
    MethodSettings,
    OptimizerSettings,
    Section,
    SpaceSettings,
    either,
    matches,
)
from igc.experiments.shelter import AggregationSettings, PrivacySettings, SecuritySettings, misfits
from igc.tasks import IMAGE_MODELS, ModelSettings, TaskSettings, misfit

RECIPE = "recipe.toml"  # of a run, in its folder
ESSENTIAL = (  # what `Recipe.essence` is of, for a person; docs/recipes.md has it, too
    "seed, [task], [model], [data] but path, [space], [method], [local], [codec], the name of [optimizer],"
    " clients_per_round, sampling, batch_size or weights of [federation], [aggregation], [privacy] but epsilon, or [secure]"
)
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class Recipe(Section):
    """All that a run depends on.

    Attributes:
        title: what the run is called in tables and plots.
        seed: of everything random: matrices, sampling, batches, new heads.
        device: where to compute: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
    """

    title: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Device = "auto"
    task: TaskSettings
    model: ModelSettings
    data: DataSettings
    space: SpaceSettings = SpaceSettings()
    method: MethodSettings
    codec: CodecSettings = CodecSettings()
    local: Annotated[LocalSettings | None, Field(validate_default=True)] = None
    optimizer: OptimizerSettings
    federation: FederationSettings
    aggregation: AggregationSettings = AggregationSettings()
    privacy: PrivacySettings | None = None
    secure: SecuritySettings | None = None
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @field_validator("model")
    @classmethod
    def _model_suits_the_task(cls, model: ModelSettings, info: ValidationInfo) -> ModelSettings:
        task = info.data.get("task")
        if task is not None and (found := misfit(task, model)):
            key, _, reason = found.partition(": ")
            raise PydanticCustomError("fault", "{place}: {reason}", {"place": f"model.{key}", "reason": reason})
        return model

    @field_validator("local")
    @classmethod
    def _fedavg_trains_locally(cls, local: LocalSettings | None, info: ValidationInfo) -> LocalSettings | None:
        method = info.data.get("method")
        if local is None and method is not None and method.name == "fedavg":
            raise PydanticCustomError(
                "fault",
                "{place}: missing, and fedavg is local training; set local.learning_rate, and local.epochs or"
                " local.batch_size for more than one step",
                {"place": "local"},
            )
        return local

    @field_validator("optimizer")
    @classmethod
    def _momentum_is_the_methods(cls, optimizer: OptimizerSettings, info: ValidationInfo) -> OptimizerSettings:
        method = info.data.get("method")
        if method is not None and method.name in SERVER_FEEDBACK and optimizer.name != "sgd":
            raise PydanticCustomError(
                "fault",
                "{place}: {method} keeps momentum and error itself, and steps as sgd does, not {name}; set"
                " optimizer.name to 'sgd', and optimizer.learning_rate and optimizer.momentum to go with it",
                {"place": "optimizer.name", "method": method.name, "name": optimizer.name},
            )
        return optimizer

    @field_validator("codec", "local", "optimizer", "federation")
    @classmethod
    def _suits_the_method(cls, section: Section | None, info: ValidationInfo) -> Section | None:
        method, name = info.data.get("method"), info.field_name or ""
        for (there, key, value), methods in NEEDS_METHOD.items():
            if there == name and matches(getattr(section, key, None), value) and method and method.name not in methods:
                raise PydanticCustomError(
                    "fault",
                    "{place}: means nothing for the method {method}; remove it, or set method.name to {methods}",
                    {"place": f"{name}.{key}", "method": method.name, "methods": either(methods)},
                )
        return section

    @field_validator("codec")
    @classmethod
    def _groups_are_rotated(cls, codec: CodecSettings, info: ValidationInfo) -> CodecSettings:
        method = info.data.get("method")
        grouped = method is not None and (method.full or method.full_below or method.budgets or method.burn_in)
        for key in ("up", "down"):
            name = getattr(codec, key)
            if grouped and name.startswith("lloyd"):
                # They share buckets: numbers of a smaller scale than their neighbours' come back worse than as zeros. So do
                # random directions beside learned ones, along which gradients are large.
                raise PydanticCustomError(
                    "fault",
                    "{place}: {name} is for numbers of one scale, and groups of tensors (method.full, full_below, budgets)"
                    " or learned directions (burn_in) have each its own; set {other}, which rotates them first",
                    {"place": f"codec.{key}", "name": name, "other": name.replace("lloyd", "eden")},
                )
        return codec

    @field_validator("optimizer")
    @classmethod
    def _moments_there_are(cls, optimizer: OptimizerSettings, info: ValidationInfo) -> OptimizerSettings:
        method = info.data.get("method")
        kept = "reset" if method is None else method.moments
        means = optimizer.name in ("adam", "yogi") or optimizer.momentum > 0
        squares = optimizer.name != "sgd"
        if (kept == "carry-scale" and not squares) or (kept == "carry-over" and not (means or squares)):
            raise PydanticCustomError(
                "fault",
                "{place}: '{kept}' means nothing for {name}{without}, which has {none}; remove it",
                {
                    "place": "method.moments",
                    "kept": kept,
                    "name": optimizer.name,
                    "without": "" if optimizer.momentum else " without momentum",
                    "none": "no mean squares" if kept == "carry-scale" else "no moments",
                },
            )
        return optimizer

    @field_validator("optimizer")
    @classmethod
    def _a_cycle_has_an_end(cls, optimizer: OptimizerSettings, info: ValidationInfo) -> OptimizerSettings:
        method = info.data.get("method")
        falls = optimizer.restarts == "change" and optimizer.schedule != "constant"
        if falls and method and method.change == "plateau" and method.rounds_per_epoch is None:
            raise PydanticCustomError(
                "fault",
                "{place}: {schedule} falls over a known number of rounds, and how many a plateau leaves a subspace is not"
                " known; set method.rounds_per_epoch, the most that it has, or schedule = 'constant'",
                {"place": "optimizer.schedule", "schedule": optimizer.schedule},
            )
        return optimizer

    @field_validator("federation")
    @classmethod
    def _warm_up_ends(cls, federation: FederationSettings, info: ValidationInfo) -> FederationSettings:
        optimizer = info.data.get("optimizer")
        if optimizer is None:
            return federation
        sections = {**info.data, "federation": federation}
        for name, key in _ends_of_warm_up(optimizer.restarts):
            count, most = optimizer.warmup_rounds, getattr(sections.get(name), key, None)
            if most is not None and count > most:
                raise PydanticCustomError(
                    "fault",
                    "{place}: {count} is more than the {most} of {end}; warm up for fewer",
                    {"place": "optimizer.warmup_rounds", "count": count, "most": most, "end": f"{name}.{key}"},
                )
        return federation

    @field_validator("federation")
    @classmethod
    def _burn_in_ends(cls, federation: FederationSettings, info: ValidationInfo) -> FederationSettings:
        method = info.data.get("method")
        if method is not None and (method.burn_in or 0) >= federation.rounds:
            raise PydanticCustomError(
                "fault",
                "{place}: {count} rounds leave none of the {rounds} of federation.rounds for what is learned in them; lower"
                " it, or remove it",
                {"place": "method.burn_in", "count": method.burn_in, "rounds": federation.rounds},
            )
        return federation

    @field_validator("federation")
    @classmethod
    def _controls_count_the_same(cls, federation: FederationSettings, info: ValidationInfo) -> FederationSettings:
        local = info.data.get("local")
        if local is not None and local.control_variates and federation.weights != "uniform":
            raise PydanticCustomError(
                "fault",
                "{place}: '{weights}' leads local.control_variates, in whose mean each client counts the same, to a wrong"
                " point; set it to 'uniform'",
                {"place": "federation.weights", "weights": federation.weights},
            )
        return federation

    @model_validator(mode="after")
    def _protections_fit(self) -> Self:
        if found := misfits(self):
            text = "\n".join(f"{place}: {reason}" for place, reason in found)
            raise PydanticCustomError("fault", "{text}", {"text": text})
        return self

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], *, where: str = "recipe") -> Self:
        """Validate ``tree``, as TOML gives it.

        Args:
            tree: sections and keys.
            where: what the error calls it, such as a file's name.

        Raises:
            RecipeError: lists every fault.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            found = faults(error, cls)
        if len(found) == 1:
            raise RecipeError(f"{where}: {found[0]}")
        raise RecipeError("\n  ".join([f"{where}: {len(found)} faults:", *found]))

    @property
    def guarded(self) -> bool:
        """Whether anything is done around the plain mean of uploads."""
        return self.aggregation != AggregationSettings() or self.privacy is not None or self.secure is not None

    @property
    def essence(self) -> str:
        """Digest of what a run cannot change half-way, `ESSENTIAL`; rounds, the server's learning rate and more it can."""
        f = self.federation
        parts = self.model_dump(mode="json", include={"seed", "task", "model", "space", "method", "local", "codec"})
        parts["data"] = self.data.model_dump(mode="json", exclude={"path"})
        parts["rest"] = [self.optimizer.name, f.clients_per_round, f.sampling, f.batch_size, f.weights]
        guards = {"aggregation": self.aggregation, "privacy": self.privacy, "secure": self.secure}
        if self.guarded:  # a budget may be raised half-way
            parts["guards"] = {k: None if g is None else g.model_dump(exclude={"epsilon"}) for k, g in guards.items()}
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()

    def anchored(self) -> Self:
        """The recipe with local paths made absolute, so that it means the same from every working folder."""
        changes: dict[str, Any] = {}
        if self.data.path is not None:
            changes["data"] = self.data.model_copy(update={"path": self.data.path.absolute()})
        if self.model.source not in IMAGE_MODELS and Path(self.model.source).exists():
            changes["model"] = self.model.model_copy(update={"source": str(Path(self.model.source).absolute())})
        return self.model_copy(update=changes)

    def to_dict(self) -> dict[str, Any]:
        """The tree that `from_dict` takes: every setting that applies, defaults included, absent where None."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """The recipe as TOML that `load` reads back to an equal one, with every default spelled out."""
        return tomli_w.dumps(self.to_dict())


class Shipped(NamedTuple):
    """A recipe that comes with the package."""

    name: str
    title: str
    command: str
    about: str


def shipped() -> list[Shipped]:
    """The recipes that come with the package, by name; each file begins with its command and what it is about."""
    found = []
    for name, text in sorted(_shipped_texts().items()):
        comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
        command, *about = (line.removeprefix("#").strip() for line in comment)
        found.append(Shipped(name, tomllib.loads(text)["title"], command, " ".join(about)))
    return found


def source(name_or_path: str | Path) -> str:
    """The text of a shipped recipe, by its name, or of a TOML file, by its path.

    Raises:
        RecipeError: there is no such recipe, or the file cannot be read.
    """
    name = str(name_or_path)
    texts = _shipped_texts()
    if name in texts:
        return texts[name]
    path = Path(name_or_path)
    try:
        if (path / RECIPE).is_file():
            resumed = (path / METRICS).is_file()
            advice = (
                f"go on with the run by `igc resume {quote(name)}`, or train it anew:" if resumed else "its recipe is"
            )
            raise RecipeError(f"{name} is a folder; {advice} {path / RECIPE}")
        if not (name.endswith(".toml") or path.is_file()):
            raise RecipeError(f"no recipe is called {name!r}{did_you_mean(name, texts)}; `igc recipes` lists them")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name}: not a text file in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise RecipeError(
            f"{name}: cannot read it ({error.strerror}); give a TOML file or a name that `igc recipes` lists"
        ) from error


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        name_or_path: a shipped recipe's name, or a TOML file.
        overrides: ``key=value`` settings that win over the file's: a dotted key (``method.dim``) and a TOML value, or a
            bare word for text. Where one changes ``method.name`` (or another key on which others depend), settings of
            the file that then mean nothing are dropped; such settings among the overrides are faults.

    Raises:
        RecipeError: there is no such recipe, it is no TOML, or it has faults: all of them are listed.
    """
    text = source(name_or_path)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        number = int(line[1]) if line else len(text.splitlines())
        raise RecipeError(f"{name_or_path}, line {number}: not valid TOML: {error}") from error
    override(tree, [parse_override(text) for text in overrides])
    return Recipe.from_dict(tree, where=str(name_or_path))


def parse_override(text: str) -> tuple[list[str], Any]:
    """Keys and value of ``a.b=value``: the value as TOML has it, or a bare word.

    Raises:
        RecipeError: it is not of that form.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    keys = [part.strip() for part in key.split(".")]
    if not equals or not all(keys):
        raise RecipeError(f"setting {text!r}: write it as section.key=value, for instance method.dim=4096")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    # What TOML does not take for one value is a bare word.
    return keys, parsed["value"] if parsed.keys() == {"value"} else value


def override(tree: dict[str, Any], overrides: Sequence[tuple[list[str], Any]]) -> None:
    """Put settings into a recipe's tree, None taking one out, and drop what means nothing any more.

    Raises:
        RecipeError: a key leads through a value that is no section.
    """
    given = {tuple(keys) for keys, _ in overrides}
    for keys, value in overrides:
        place = tree
        for depth, key in enumerate(keys[:-1], start=1):
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise RecipeError(f"setting {'.'.join(keys)}: {'.'.join(keys[:depth])} is a value, not a section")
        if value is None:
            place.pop(keys[-1], None)
        else:
            place[keys[-1]] = value
    _drop_what_the_method_lacks(tree, given)
    for name, section in _sections():
        values = tree.get(name)
        if not isinstance(values, dict):
            continue
        for key, conditions in section.applies.items():
            changed = any((name, other) in given for other in conditions)
            defaults = {other: section.model_fields[other].default for other in conditions}
            if changed and (name, key) not in given and section.obstacle(key, {**defaults, **values}):
                values.pop(key, None)
    _drop_what_the_partition_lacks(tree, given)
    _shorten_warm_up(tree, given)


def _shipped_texts() -> dict[str, str]:
    folder = resources.files("igc") / "recipes"
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def _ends_of_warm_up(restarts: object) -> list[tuple[str, str]]:
    """Section and key of the numbers of rounds beyond which a warm-up never reaches its peak."""
    cycles = {"rounds": ("optimizer", "cycle"), "change": ("method", "rounds_per_epoch")}
    return [("federation", "rounds"), *(place for name, place in cycles.items() if name == restarts)]


def _shorten_warm_up(tree: dict[str, Any], given: set[tuple[str, ...]]) -> None:
    """Where fewer rounds, or shorter cycles, were asked for than the file warms up for, warm up for all of them."""
    optimizer = tree.get("optimizer")
    if ("optimizer", "warmup_rounds") in given or not isinstance(optimizer, dict):
        return
    ends = _ends_of_warm_up(optimizer.get("restarts"))
    if given.isdisjoint([*ends, ("optimizer", "restarts")]) or not isinstance(optimizer.get("warmup_rounds"), int):
        return
    for name, key in ends:
        section = tree.get(name)
        most = section.get(key) if isinstance(section, dict) else None
        if isinstance(most, int):
            optimizer["warmup_rounds"] = min(optimizer["warmup_rounds"], max(most, 0))


def _drop_what_the_method_lacks(tree: dict[str, Any], given: set[tuple[str, ...]]) -> None:
    """Where another method was asked for, leave out what means nothing for it in other sections."""
    method = tree.get("method")
    if ("method", "name") not in given or not isinstance(method, dict):
        return
    for (name, key, value), methods in NEEDS_METHOD.items():
        section = tree.get(name)
        if not isinstance(section, dict) or method.get("name") in methods:
            continue
        if matches(section.get(key), value) and (name, key) not in given:
            del section[key]


def _drop_what_the_partition_lacks(tree: dict[str, Any], given: set[tuple[str, ...]]) -> None:
    """Where another partition was asked for, leave out what is of the file's."""
    data = tree.get("data")
    if given.isdisjoint({("data", "partition"), ("data", "source")}) or not isinstance(data, dict):
        return
    source = SOURCES.get(str(data.get("source")))
    how = data.get("partition") or (source.partition if source else None)
    takes = next((keys for name, keys in DEALT_BY.items() if name == how), None)
    if takes is None:  # there is no such partition, as is found out later
        return
    for key in frozenset().union(*DEALT_BY.values()) - takes:
        if ("data", key) not in given:
            data.pop(key, None)


def _sections() -> Iterator[tuple[str, type[Section]]]:
    for name, field in Recipe.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield name, field.annotation
