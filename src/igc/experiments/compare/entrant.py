"""An entrant of a comparison: a name for a few settings on top of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from igc.experiments.recipe import Recipe, override

Settings = Mapping[str, Any]  # dotted key -> value; None takes the key out of the recipe

RATE: Final = "optimizer.learning_rate"
LOCAL_RATE: Final = "local.learning_rate"


@dataclass(frozen=True)
class Entrant:
    """A method with its settings, as a comparison runs it.

    Attributes:
        name: as on the command line, in tables and in folders.
        about: what it is, and whose.
        settings: on top of the recipe.
        tuned: the key of the learning rate that is tuned.
        start: the rate that tuning starts from; None: the recipe's own, times ``relative``.
        relative: see ``start``.
    """

    name: str
    about: str
    settings: Settings = field(default_factory=dict)
    tuned: str = RATE
    start: float | None = None
    relative: float = 1.0

    def first_rate(self, base: Recipe) -> float:
        """The learning rate that tuning starts from."""
        return self.relative * base.optimizer.learning_rate if self.start is None else self.start

    def recipe(self, base: Recipe, rate: float, extra: Settings) -> Recipe:
        """The recipe of one run: the base with this entrant's settings, a learning rate, and ``extra`` on top.

        Raises:
            RecipeError: the settings do not fit the recipe.
        """
        tree = base.to_dict()
        override(tree, [(key.split("."), value) for key, value in {**self.settings, self.tuned: rate, **extra}.items()])
        return Recipe.from_dict(tree, where=f"method {self.name}")
