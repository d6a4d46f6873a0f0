"""What pydantic finds wrong with a recipe, in our words: place, offending value, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from igc.errors import did_you_mean
from igc.experiments.settings import either

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text in quotes",
    "path": "text in quotes",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
    "model": "a section",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_DEVICES = ("auto", "cpu", "cuda")


def faults(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Each finding as ``section.key: what is wrong, with the offending value, what to do``.

    Args:
        error: what validating ``model`` raised.
        model: what was validated; gives the keys that are known.
    """
    lines: list[str] = []
    for details in error.errors(include_url=False):
        context = details.get("ctx", {})
        path, known = _resolve(model, [str(part) for part in details["loc"]])
        if details["type"] == "fault":
            lines.extend(details["msg"].split("\n"))
        else:
            finding = _Finding(details["type"], details["msg"], details["input"], context, path[-1:], known, model)
            lines.append(f"{'.'.join(path)}: {finding.in_words()}")
    return lines


@dataclass(frozen=True)
class _Finding:
    kind: str
    message: str
    value: Any
    context: dict[str, Any]
    key: list[str]
    known: list[str]
    model: type[BaseModel]

    def in_words(self) -> str:
        if self.kind in _BOUNDS:
            name, words = _BOUNDS[self.kind]
            bound = self.context[name]
            return f"must be {words} {int(bound) if bound == int(bound) else bound:,}, not {self._shown}"
        if self.kind in _WORDS:
            return _WORDS[self.kind](self)
        wanted = _KINDS.get(self.kind.partition("_")[0])
        return f"must be {wanted}, not {self._shown}" if wanted else f"{self.message}, not {self._shown}"

    @property
    def _shown(self) -> str:
        """The offending value on one line, of a length that a person reads."""
        text = repr(self.value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    def _missing(self) -> str:
        section = self.known == list(self.model.model_fields) and self.key[0] not in _scalars(self.model)
        return f"is missing; add a section [{self.key[0]}]" if section else "is missing; add it"

    def _extra(self) -> str:
        key = self.key[0]
        homes = [f"{name}.{key}" for name, keys in _sections(self.model).items() if key in keys]
        hint = f" (did you mean '{homes[0]}'?)" if homes else did_you_mean(key, self.known)
        listing = f"; known here: {', '.join(self.known)}" if self.known else ""
        return f"is not a known key{hint or '; remove it'}{listing}"

    def _choice(self) -> str:
        choices = re.findall(r"'([^']*)'", self.context["expected"])
        return f"must be {either(choices)}, not {self._shown}{did_you_mean(str(self.value), choices)}"

    def _device(self) -> str:
        hint = did_you_mean(str(self.value), _DEVICES)
        return f"must be 'auto', 'cpu', 'cuda' or 'cuda:N', not {self._shown}{hint}"

    def _empty(self) -> str:
        return f"must not be empty, as {self._shown} is; name one at least"

    def _own_words(self) -> str:
        return str(self.context["error"])


_WORDS: dict[str, Callable[[_Finding], str]] = {
    "missing": _Finding._missing,
    "extra_forbidden": _Finding._extra,
    "literal_error": _Finding._choice,
    "string_pattern_mismatch": _Finding._device,
    "string_too_short": _Finding._empty,
    "too_short": _Finding._empty,
    "value_error": _Finding._own_words,
}


def _resolve(root: type[BaseModel], location: Sequence[str]) -> tuple[list[str], list[str]]:
    """A finding's place as the file has it, without pydantic's tags of unions, and the keys known there."""
    path: list[str] = []
    known: list[str] = []
    models = [root]
    for part in location:
        tagged = [model for model in models if len(models) > 1 and model.model_fields["name"].default == part]
        if tagged:
            models = tagged
            continue
        path.append(part)
        known = [key for model in models for key in model.model_fields]
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for field in fields for model in _models(field.annotation)]
    return path, known


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of this type may be."""
    kinds = (annotation, *get_args(annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _sections(root: type[BaseModel]) -> dict[str, list[str]]:
    """The keys of each section."""
    return {
        name: [key for model in _models(field.annotation) for key in model.model_fields]
        for name, field in root.model_fields.items()
        if _models(field.annotation)
    }


def _scalars(root: type[BaseModel]) -> set[str]:
    return root.model_fields.keys() - _sections(root).keys()
