"""Of what kind the values are that a report reads, so that a damaged file is named before anything is made of it.

What a recipe may hold changes with versions, and a report shows runs of all of them: only what it reads is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from igc.codecs import CODECS
from igc.errors import RunError

Kinds = Mapping[str, str]  # dotted key -> kind, of a value that may be absent or null

_NUMBER, _COUNT, _TEXT, _LIST, _TABLE = "number", "whole number", "text", "list", "table"
_TEXTS: Final = "table of texts"
_CODEC: Final = "codec"


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def is_count(value: object) -> bool:
    """A whole number from 0, of a size that arithmetic takes."""
    return _is_number(value) and isinstance(value, int) and value >= 0


_IS: Final[Mapping[str, Callable[[Any], bool]]] = {
    _NUMBER: _is_number,
    _COUNT: is_count,
    _TEXT: lambda value: isinstance(value, str),
    _LIST: lambda value: isinstance(value, list),
    _TABLE: lambda value: isinstance(value, dict),
    _TEXTS: lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
    _CODEC: lambda value: isinstance(value, str) and value in CODECS,
}

OF_A_RECIPE: Final[Kinds] = {
    **dict.fromkeys(
        (
            "seed", "federation.rounds", "federation.clients_per_round", "data.clients", "method.dim", "method.subspaces",
            "method.rounds_per_epoch", "evaluation.max_examples",
        ),
        _COUNT,
    ),
    **dict.fromkeys(("title", "method.name", "model.source", "data.source"), _TEXT),
    **dict.fromkeys(("codec.up", "codec.down"), _CODEC),
    "optimizer.learning_rate": _NUMBER,
    "evaluation.splits": _LIST,
}  # fmt: skip
OF_A_ROUND: Final[Kinds] = {
    **dict.fromkeys(("total_up", "total_down", "seconds", "metric", "loss"), _NUMBER),
    "metric_name": _TEXT,
}
OF_A_SUMMARY: Final[Kinds] = {
    **dict.fromkeys(("rounds", "D", "clients"), _COUNT),
    **dict.fromkeys(
        ("model_bytes", "factor_vs_model", "final_metric", "table.predicted_up", "table.predicted_down"), _NUMBER
    ),
    "table": _TABLE,
    "versions": _TEXTS,
    **dict.fromkeys(("metric_name", "device"), _TEXT),
}
OF_A_LINE: Final[Kinds] = {  # of comparison.json
    **dict.fromkeys(
        ("metric", "metric_std", "bytes_up", "bytes_down", "factor", "seconds", "learning_rate", "budget_bytes"),
        _NUMBER,
    ),
    "rounds": _COUNT,
    "runs": _LIST,
}
OF_A_TRIAL: Final[Kinds] = {"run": _TEXT, "status": _TEXT}


def look_up(tree: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """A value of nested tables by its dotted key."""
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def check(tree: Mapping[str, Any], kinds: Kinds, where: str, remedy: str) -> None:
    """Refuse values of another kind than they should be.

    Args:
        tree: nested tables.
        kinds: of its values.
        where: the file, and what of it.
        remedy: what to do.

    Raises:
        RunError: names the value.
    """
    for key, kind in kinds.items():
        value = look_up(tree, key)
        if value is not None and not _IS[kind](value):
            raise RunError(f"{where}: {key} = {_shown(value)} is no {kind}; {remedy}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
