"""What is tuned, and within which limits.

A key of the recipe that the user set on the command line is not tuned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from igc.experiments.recipe import Recipe, override

_LEAST_POWER: Final = 6  # d = 64
_MOST_POWER: Final = 20
_RATES: Final = (0.1, 30.0)  # of the recipe's learning rate: small subspaces take larger steps
_FEWEST_BITS: Final = 1 + 4  # of a number, up and down together
_PLAIN_BYTES: Final = 2 + 2  # the same in float16

METHODS: Final = ("static", "time-varying", "k-subspace")
GROUPS: Final = ("method.full", "method.full_below", "method.budgets")  # dimensions that come on top of d
_GROUPED: Final = ("static", "time-varying")  # methods that may have them
UPLOADS: Final = ("float16", "int8", "lloyd-2", "lloyd-1")
DOWNLOADS: Final = ("float16", "int8", "lloyd-4")
ROUGH: Final = ("lloyd-2", "lloyd-1")
CHANGES: Final = (2, 4, 8)
SUBSPACES: Final = (2, 4)
SCALES: Final = ("none", "calibrated")
EXPONENTS: Final = (0.5, 1.0)
LOCAL_STEPS: Final = (1, 2, 4)
SCHEDULES: Final = ("constant", "linear", "cosine")
WARM_UPS: Final = (0.0, 0.1)

Setting = tuple[str, Any]


class Suggest(Protocol):
    """What an Optuna trial offers."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some choices."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A real number."""


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a tuning may choose.

    Attributes:
        base: the recipe; what is not tuned is its own.
        pinned: keys, dotted, that the user set.
        powers: the least and the largest d, as powers of two.
    """

    base: Recipe
    pinned: frozenset[str]
    powers: tuple[int, int]

    @classmethod
    def within(cls, base: Recipe, pinned: frozenset[str], D: int, bytes_a_message: float) -> SearchSpace:
        """Limits that make sense.

        Args:
            base: the recipe.
            pinned: keys, dotted, that the user set.
            D: parameters; d is at most a quarter.
            bytes_a_message: that a download and an upload may cost together; a larger d than fits at the fewest bits is not
                tried.
        """
        affordable = max(8 * bytes_a_message / _FEWEST_BITS, 1)
        most = min(math.floor(math.log2(max(D // 4, 1))), math.floor(math.log2(affordable)), _MOST_POWER)
        return cls(base, pinned, (min(_LEAST_POWER, max(most, 0)), max(most, 0)))

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods among which to choose: those for which what the user set has a meaning."""
        return _GROUPED if self.pinned.intersection(GROUPS) else METHODS

    def usual(self, bytes_a_message: float) -> dict[str, Any]:
        """What is tried first, as a trial's parameters: the recipe's method, rate and schedule, and as large a d as pays.

        Args:
            bytes_a_message: that a download and an upload may cost together in a training of all rounds.
        """
        power = math.floor(math.log2(max(bytes_a_message / _PLAIN_BYTES, 1)))
        name = self.base.method.name
        return {
            "method.name": name if name in self.methods else "static",
            "method.dim, power of two": min(max(power, self.powers[0]), self.powers[1]),
            "method.subspaces": SUBSPACES[0],
            "subspaces in turn": CHANGES[0],
            "method.scale": self.base.method.scale if self.base.method.scale in SCALES else "none",
            "method.scale_exponent": EXPONENTS[-1],
            "codec.up": "float16",
            "codec.down": "float16",
            "optimizer.schedule": self.base.optimizer.schedule,
            "optimizer.restarts": "never",
            "optimizer.learning_rate": self.base.optimizer.learning_rate,
            "local steps": 1,
            "warm-up": WARM_UPS[bool(self.base.optimizer.warmup_rounds)],
        }

    def draw(self, trial: Suggest) -> Choice:
        """One combination.

        Every name that is asked for has the same choices in all trials, as Optuna wants it.
        """
        pick = _Pick(trial, self.base.to_dict(), self.pinned)
        method = pick.one("method.name", self.methods)
        if not pick.has("method.dim"):
            pick.settings["method.dim"] = 2 ** trial.suggest_int("method.dim, power of two", *self.powers)
            # What a group has is as much of a message as d, and was chosen for another d.
            pick.settings |= {key: None for key in GROUPS if not pick.has(key)}
        if method.startswith("k-subspace"):
            pick.one("method.subspaces", SUBSPACES)
        changes = None
        if pick.one("method.scale", SCALES) == "calibrated":
            pick.one("method.scale_exponent", EXPONENTS)
        varying = method.endswith("time-varying")
        if varying and not pick.has("method.change"):
            pick.settings["method.change"] = "rounds"  # what a plateau costs cannot be foreseen
        if varying and not pick.has("method.rounds_per_epoch"):
            changes = trial.suggest_categorical("subspaces in turn", CHANGES)
        upload = pick.one("codec.up", UPLOADS)
        pick.one("codec.down", DOWNLOADS)
        if upload in ROUGH and not varying:
            pick.one("codec.error_feedback", (False, True))
        elif not pick.has("codec.error_feedback"):
            pick.settings["codec.error_feedback"] = None
        self._optimizer(trial, pick, varying=varying)
        self._local(trial, pick)
        warm_up = None
        if not pick.has("optimizer.warmup_rounds"):
            warm_up = trial.suggest_categorical("warm-up", WARM_UPS)
        return Choice(pick.settings, changes, warm_up)

    def _optimizer(self, trial: Suggest, pick: _Pick, *, varying: bool) -> None:
        schedule = pick.one("optimizer.schedule", SCHEDULES)
        if not pick.has("optimizer.restarts"):
            pick.settings |= {"optimizer.restarts": None, "optimizer.cycle": None}
            if varying and schedule != "constant":
                pick.one("optimizer.restarts", ("never", "change"))
        if not pick.has("optimizer.learning_rate"):
            pick.settings["optimizer.learning_rate"] = _rate(trial, "optimizer.learning_rate", self.base)

    def _local(self, trial: Suggest, pick: _Pick) -> None:
        """Steps on as many fresh batches, or, where clients take all that they have each time, as many passes."""
        if any(key.partition(".")[0] == "local" for key in self.pinned):
            return
        steps = trial.suggest_categorical("local steps", LOCAL_STEPS)
        pick.settings["local"] = None
        if steps == 1:
            return
        batch = self.base.federation.batch_size
        whole = batch is None or pick.has("federation.batch_size")
        pick.settings["local"] = {
            "learning_rate": _rate(trial, "local.learning_rate", self.base),
            "optimizer": "adam",
            "epochs": steps if whole else 1,
            **({} if batch is None or whole else {"batch_size": batch}),
        }
        if batch is not None and not whole:
            pick.settings["federation.batch_size"] = batch * steps


@dataclass(frozen=True)
class Choice:
    """What was drawn.

    Attributes:
        settings: dotted key -> value; None takes the key out of the recipe.
        changes: subspaces in turn, of the time-varying method.
        warm_up: share of the rounds; None: as the recipe has it.
    """

    settings: Mapping[str, Any]
    changes: int | None
    warm_up: float | None

    def recipe(self, base: Recipe, rounds: int, extra: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe of so many rounds.

        Raises:
            RecipeError: the settings do not fit the recipe.
        """
        timed: dict[str, Any] = {"federation.rounds": rounds}
        if self.changes is not None:
            timed["method.rounds_per_epoch"] = max(math.ceil(rounds / self.changes), 1)
        if self.warm_up is not None:
            timed["optimizer.warmup_rounds"] = math.ceil(self.warm_up * rounds)
        tree = base.to_dict()
        merged = {**self.settings, **timed, **(extra or {})}
        override(tree, [(key.split("."), value) for key, value in merged.items()])
        return Recipe.from_dict(tree, where="tuning")


class Cheapest:
    """Draws what takes the fewest bytes a round."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The first; of codecs the last."""
        return choices[-1 if name in ("codec.up", "codec.down") else 0]

    def suggest_int(self, name: str, low: int, high: int) -> int:  # noqa: ARG002
        """The least."""
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:  # noqa: ARG002
        """The least."""
        return low


@dataclass
class _Pick:
    """Draws settings, but for those that are pinned."""

    trial: Suggest
    tree: Mapping[str, Any]
    pinned: frozenset[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def has(self, key: str) -> bool:
        """Whether the user set a setting, or its whole section."""
        return key in self.pinned or key.partition(".")[0] in self.pinned

    def one(self, key: str, choices: Sequence[Any]) -> Any:
        """The value of a setting: the user's, or one of some choices."""
        section, leaf = key.split(".")
        if self.has(key):
            return self.tree.get(section, {}).get(leaf)
        self.settings[key] = self.trial.suggest_categorical(key, choices)
        return self.settings[key]


def _rate(trial: Suggest, name: str, base: Recipe) -> float:
    """A learning rate, to three digits, so that recipes can be read."""
    low, high = (factor * base.optimizer.learning_rate for factor in _RATES)
    return float(f"{trial.suggest_float(name, low, high, log=True):.3g}")
