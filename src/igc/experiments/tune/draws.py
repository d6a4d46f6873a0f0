"""How settings are drawn: by Optuna, by order, or by what costs least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from igc.codecs import CODECS

_MANY = 2**16


def bits(codec: str) -> float:
    """What a number costs, in the long run."""
    return 8 * CODECS[codec].length((_MANY,)) / _MANY


class Suggest(Protocol):
    """What an Optuna trial offers."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some choices."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A real number."""


class Cheapest:
    """Draws what takes the fewest bytes a round."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The first; of codecs the one with the fewest bits."""
        return min(choices, key=bits) if name in ("codec.up", "codec.down") else choices[0]

    def suggest_int(self, name: str, low: int, high: int) -> int:  # noqa: ARG002
        """The least."""
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:  # noqa: ARG002
        """The least."""
        return low


@dataclass(frozen=True)
class Told:
    """Draws what it is told, of names that it is told."""

    told: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """What it was told, or the first."""
        return self.told.get(name, choices[0])

    def suggest_int(self, name: str, low: int, high: int) -> int:  # noqa: ARG002
        """What it was told, or the least."""
        return int(self.told.get(name, low))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:  # noqa: ARG002
        """What it was told, or the least."""
        return float(self.told.get(name, low))


@dataclass
class Pick:
    """Draws settings, but for those that are pinned."""

    trial: Suggest
    tree: Mapping[str, Any]
    pinned: frozenset[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        """Whether the user set a setting, or its whole section."""
        return has(self.pinned, key)

    def one(self, key: str, choices: Sequence[Any]) -> Any:
        """The value of a setting: the user's, or one of some choices."""
        if self.has(key):
            return value_of(self.tree, key)
        self.settings[key] = self.trial.suggest_categorical(key, choices)
        return self.settings[key]

    def rate(self, key: str, own: float, factors: tuple[float, float]) -> float:
        """A learning rate between multiples of a recipe's own: that one, or another to three digits, to be read."""
        found = self.trial.suggest_float(key, factors[0] * own, factors[1] * own, log=True)
        return own if found == own else float(f"{found:.3g}")


def has(pinned: frozenset[str], key: str) -> bool:
    """Whether a setting is pinned, or its whole section."""
    return key in pinned or key.partition(".")[0] in pinned


def value_of(tree: Mapping[str, Any], key: str) -> Any:
    """What a tree holds under a dotted key; None where it holds nothing."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
