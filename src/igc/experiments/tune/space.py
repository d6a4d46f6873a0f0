"""What is tuned, and within which limits.

A key of the recipe that the user set on the command line is not tuned. Whatever the recipe has is among the choices, so
that a tuning can draw the recipe that it starts from, and what is near to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Final

from igc.errors import RecipeError
from igc.experiments.recipe import Recipe, override
from igc.experiments.settings import K_SUBSPACE
from igc.experiments.tune.draws import Pick, Suggest, bits, has, value_of

VERSION: Final = 4  # to be raised with every change of what may be drawn: no study holds trials of two search spaces

_LEAST_POWER: Final = 6  # d = 64
_MOST_POWER: Final = 20
_RATES: Final = (0.1, 30.0)  # of the recipe's learning rate: small subspaces take larger steps

AS_IS: Final = "as the recipe"
DRAWN: Final = "drawn"

METHODS: Final = ("static", "time-varying", "k-subspace")
TUNABLE: Final = (*METHODS, "k-subspace-time-varying")
GROUPS: Final = ("method.full", "method.full_below", "method.budgets")  # dimensions that come on top of d
_GROUPED: Final = ("static", "time-varying")  # methods that may have them
UPLOADS: Final = ("float16", "int8", "eden-2", "lloyd-2", "eden-1", "lloyd-1")
DOWNLOADS: Final = ("float16", "int8", "eden-4", "lloyd-4", "eden-3", "lloyd-3")
ROUGH: Final = ("eden-2", "lloyd-2", "eden-1", "lloyd-1")
CHANGES: Final = (2, 4, 8)
SUBSPACES: Final = (2, 4)
SCALES: Final = ("none", "calibrated")
EXPONENTS: Final = (-0.5, 0.5, 1.0)
LOCAL_STEPS: Final = (1, 2, 4)
SCHEDULES: Final = ("constant", "linear", "cosine")
WARM_UPS: Final = (0.0, 0.1)


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a tuning may choose.

    Attributes:
        base: the recipe; what is not tuned is its own.
        pinned: keys, dotted, that the user set.
        powers: the least and the largest d, as powers of two.
        own_dimensions: whether the recipe's d, and what its groups of tensors have, is a choice beside those powers.
    """

    base: Recipe
    pinned: frozenset[str]
    powers: tuple[int, int]
    own_dimensions: bool

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
        up, down = (_with(names, own) for names, own in ((UPLOADS, base.codec.up), (DOWNLOADS, base.codec.down)))
        affordable = max(8 * bytes_a_message / (min(map(bits, up)) + min(map(bits, down))), 1)
        most = min(math.floor(math.log2(max(D // 4, 1))), math.floor(math.log2(affordable)), _MOST_POWER)
        powers = (min(_LEAST_POWER, max(most, 0)), max(most, 0))
        d = base.method.dim
        grouped = any(value_of(base.to_dict(), key) for key in GROUPS if not has(pinned, key))
        a_power = d & (d - 1) == 0 and powers[0] <= d.bit_length() - 1 <= powers[1]
        own = base.method.name in TUNABLE and d <= affordable and (grouped or not a_power)
        return cls(base, pinned, powers, own)

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """Methods among which to choose: those for which what the user set has a meaning."""
        own = self.base.method.name
        candidates = _with(METHODS, own) if own in TUNABLE else METHODS
        return tuple(name for name in candidates if self._keeps_what_is_pinned(name)) or candidates

    def _keeps_what_is_pinned(self, method: str) -> bool:
        try:
            tree = changed(self.base, {"method.name": method}).to_dict()
        except RecipeError:
            return False
        before = self.base.to_dict()
        return all(value_of(tree, key) == value_of(before, key) for key in self.pinned - {"method", "method.name"})

    @cached_property
    def scales(self) -> tuple[str, ...]:
        """Scales that go with the rest of the recipe, such as its burn-in."""
        return self._sound("method.scale", _with(SCALES, self.base.method.scale))

    @cached_property
    def uploads(self) -> tuple[str, ...]:
        """Codecs that go with the rest of the recipe, such as secure aggregation."""
        return self._sound("codec.up", _with(UPLOADS, self.base.codec.up))

    @cached_property
    def downloads(self) -> tuple[str, ...]:
        """Codecs that go with the rest of the recipe, such as its groups of tensors."""
        return self._sound("codec.down", _with(DOWNLOADS, self.base.codec.down))

    @cached_property
    def feedback(self) -> tuple[bool, ...]:
        """Whether there may be error feedback, which goes with no norm bound."""
        own = self.base.codec.up
        return self._sound("codec.error_feedback", (False, True), {"codec.up": own if own != "float32" else ROUGH[-1]})

    def _sound(self, key: str, choices: tuple[Any, ...], beside: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """Choices with which the recipe has no faults; all where it has some with each."""
        name = self.base.method.name
        others = {"method.name": name if name in TUNABLE else METHODS[0], **(beside or {})}

        def fits(choice: Any) -> bool:
            try:
                changed(self.base, {**others, key: choice})
            except RecipeError:
                return False
            return True

        return tuple(filter(fits, choices)) or choices

    @property
    def _turns(self) -> tuple[int | str, ...]:
        method = self.base.method
        foreseen = method.name.endswith("time-varying") and method.change == "rounds"
        return (*CHANGES, AS_IS) if foreseen else CHANGES

    def own(self) -> dict[str, Any]:
        """The parameters of a trial that draws the recipe itself, or, where tuning has no such method, what is nearest."""
        method, optimizer, codec = self.base.method, self.base.optimizer, self.base.codec
        return {
            "method.name": method.name if method.name in self.methods else self.methods[0],
            "dimensions": AS_IS,
            "method.dim, power of two": self._power(method.dim),
            "method.subspaces": method.subspaces if method.name in K_SUBSPACE else SUBSPACES[0],
            "subspaces in turn": self._turns[-1] if self._turns[-1] == AS_IS else CHANGES[0],
            "method.scale": method.scale if method.scale in self.scales else "none",
            "method.scale_exponent": method.scale_exponent,
            "codec.up": codec.up,
            "codec.down": codec.down,
            "codec.error_feedback": codec.error_feedback,
            "optimizer.schedule": optimizer.schedule,
            "restarts every cycle": optimizer.restarts == "rounds",
            "optimizer.restarts": "change" if optimizer.restarts == "change" else "never",
            "optimizer.learning_rate": optimizer.learning_rate,
            "local steps": LOCAL_STEPS[0] if self.base.local is None else AS_IS,
            "warm-up": AS_IS if optimizer.warmup_rounds else WARM_UPS[0],
        }

    def own_at(self, bytes_a_message: float) -> dict[str, Any]:
        """The same at the largest d that pays, without groups of tensors.

        Args:
            bytes_a_message: that a download and an upload may cost together in a training of all rounds.
        """
        d = 8 * bytes_a_message / (bits(self.base.codec.up) + bits(self.base.codec.down))
        return {**self.own(), "dimensions": DRAWN, "method.dim, power of two": self._power(d)}

    def _power(self, d: float) -> int:
        return min(max(math.floor(math.log2(max(d, 1))), self.powers[0]), self.powers[1])

    def draw(self, trial: Suggest) -> Choice:
        """One combination.

        Every name that is asked for has the same choices in all trials, as Optuna wants it.
        """
        base = self.base
        pick = Pick(trial, base.to_dict(), self.pinned)
        method = pick.one("method.name", self.methods)
        self._dimensions(pick, method)
        if method in K_SUBSPACE:
            own = base.method.subspaces
            pick.one("method.subspaces", _with(SUBSPACES, own) if base.method.name in K_SUBSPACE else SUBSPACES)
        if pick.one("method.scale", self.scales) in ("calibrated", "weights"):
            pick.one("method.scale_exponent", _with(EXPONENTS, base.method.scale_exponent))
        changes = None
        varying = method.endswith("time-varying")
        if varying and not pick.has("method.change"):
            pick.settings["method.change"] = "rounds"  # what a plateau costs cannot be foreseen
        if varying and not pick.has("method.rounds_per_epoch"):
            turns = trial.suggest_categorical("subspaces in turn", self._turns)
            changes = None if turns == AS_IS else turns
        upload = pick.one("codec.up", self.uploads)
        pick.one("codec.down", self.downloads)
        as_it_is = base.codec.error_feedback and (method, upload) == (base.method.name, base.codec.up)
        if (upload in ROUGH and not varying) or as_it_is:
            pick.one("codec.error_feedback", self.feedback)
        elif not pick.has("codec.error_feedback"):
            pick.settings["codec.error_feedback"] = None
        self._optimizer(pick, varying=varying)
        self._local(pick)
        warm_up = None
        if not pick.has("optimizer.warmup_rounds"):
            shares = (*WARM_UPS, AS_IS) if base.optimizer.warmup_rounds else WARM_UPS
            warm_up = trial.suggest_categorical("warm-up", shares)
            if warm_up == AS_IS:  # exactly, so that as many rounds as the recipe has get its warm-up
                warm_up = Fraction(base.optimizer.warmup_rounds, base.federation.rounds)
        return Choice(pick.settings, changes, warm_up)

    def _dimensions(self, pick: Pick, method: str) -> None:
        """The recipe's, its groups of tensors included, or a power of two for all."""
        if pick.has("method.dim"):
            return
        grouped = any(value_of(pick.tree, key) for key in GROUPS)
        own = self.own_dimensions and (method in _GROUPED or not grouped)
        if own and pick.trial.suggest_categorical("dimensions", (DRAWN, AS_IS)) == AS_IS:
            return
        pick.settings["method.dim"] = 2 ** pick.trial.suggest_int("method.dim, power of two", *self.powers)
        # What a group has is as much of a message as d, and was chosen for another d.
        pick.settings |= {key: None for key in GROUPS if not pick.has(key)}

    def _optimizer(self, pick: Pick, *, varying: bool) -> None:
        own = self.base.optimizer
        schedule = pick.one("optimizer.schedule", SCHEDULES)
        if not pick.has("optimizer.learning_rate"):
            rate = pick.rate("optimizer.learning_rate", own.learning_rate, _RATES)
            pick.settings["optimizer.learning_rate"] = rate
        if pick.has("optimizer.restarts"):
            return
        if own.restarts == "rounds" and pick.trial.suggest_categorical("restarts every cycle", (False, True)):
            return
        pick.settings |= {"optimizer.restarts": None, "optimizer.cycle": None}
        if varying and (schedule != "constant" or own.restarts == "change"):
            pick.one("optimizer.restarts", ("never", "change"))

    def _local(self, pick: Pick) -> None:
        """The recipe's; or steps on as many fresh batches, or, where clients take all that they have, as many passes."""
        if any(key.partition(".")[0] == "local" for key in self.pinned):
            return
        own, batch = self.base.local, self.base.federation.batch_size
        steps = pick.trial.suggest_categorical("local steps", LOCAL_STEPS if own is None else (*LOCAL_STEPS, AS_IS))
        if steps == AS_IS:
            return
        pick.settings["local"] = None
        if steps == 1:
            return
        whole = batch is None or pick.has("federation.batch_size")
        rate = own.learning_rate if own and own.optimizer == "adam" else self.base.optimizer.learning_rate
        pick.settings["local"] = {
            "learning_rate": pick.rate("local.learning_rate", rate, _RATES),
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
        changes: subspaces in turn, of the time-varying method; None: as the recipe has it.
        warm_up: share of the rounds; None: the user set it.
    """

    settings: Mapping[str, Any]
    changes: int | None
    warm_up: float | Fraction | None

    def recipe(self, base: Recipe, rounds: int, extra: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe of so many rounds.

        Raises:
            RecipeError: the settings do not fit the recipe.
        """
        timed: dict[str, Any] = {"federation.rounds": rounds}
        if self.changes is not None:
            timed["method.rounds_per_epoch"] = max(math.ceil(rounds / self.changes), 1)
        if self.warm_up is not None:  # beforehand, so that it is shortened where the schedule restarts sooner
            optimizer = base.optimizer.model_copy(update={"warmup_rounds": math.ceil(self.warm_up * rounds)})
            base = base.model_copy(update={"optimizer": optimizer})
        return changed(base, {**self.settings, **timed, **(extra or {})})


def changed(base: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """A recipe with other settings: dotted key -> value; None takes the key out.

    Raises:
        RecipeError: they do not fit the recipe.
    """
    tree = base.to_dict()
    override(tree, [(key.split("."), value) for key, value in settings.items()])
    return Recipe.from_dict(tree, where="tuning")


def _with(choices: Sequence[Any], own: Any) -> tuple[Any, ...]:
    """Choices, and the recipe's own where it is another."""
    return tuple(choices) if own in choices else (*choices, own)
