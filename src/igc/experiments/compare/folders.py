"""Which folder of a comparison a run is in.

RUNS/METHOD/RUN/ is named by the entrant, the rate, the seed and the rounds. A run's recipe depends on more: on the split
that chooses, and on what this version of igc takes an entrant to be. Where the folder holds a run of another recipe, the
run goes into RUN-2, RUN-3, ... beside it: a run is never taken for another, and none is lost.
"""

from __future__ import annotations

import hashlib
import re
from itertools import count
from pathlib import Path
from typing import Final

from igc.experiments.recipe import RECIPE, Recipe, load

_LONGEST: Final = 160  # bytes of a name that is not cut
_POSSIBLE: Final = 255  # what file systems take


def folder_of(root: Path, method: str, run: str, recipe: Recipe) -> Path:
    """The folder of a run: the one that holds it, or else one that is free.

    Raises:
        RecipeError: the recipe in a folder that may be the run's is damaged.
    """
    *old, new = (root / name / run for name in method_folders(method))
    return next((place for place in old if _serves(place, recipe)), None) or _beside(new, recipe)


def method_folders(method: str) -> tuple[str, ...]:
    """Names that the folder of an entrant's runs has had, the one for new ones last.

    Where characters have to be replaced or left out, a digest tells it from others. Once there was none, and long names
    were left as they were.
    """
    plain = re.sub(r"[^\w.=+-]", "-", method)
    digest = hashlib.blake2b(method.encode(), digest_size=3).hexdigest()
    found = [plain] if plain == method else [plain, f"{plain}-{digest}"]
    if len(plain.encode()) > _LONGEST:
        short = plain.encode()[:_LONGEST].decode(errors="ignore")
        found.append(f"{short}-{digest}")
    return tuple(name for name in found if len(name.encode()) <= _POSSIBLE)


def _beside(folder: Path, recipe: Recipe) -> Path:
    places = (folder if n == 1 else folder.with_name(f"{folder.name}-{n}") for n in count(1))
    return next(place for place in places if not (place / RECIPE).exists() or _serves(place, recipe))


def _serves(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds a run of a recipe; what else it was evaluated on makes no difference."""
    if not (folder / RECIPE).exists():
        return False
    there, wanted = load(folder / RECIPE), recipe.anchored()
    splits = there.evaluation.splits
    first, *others = wanted.evaluation.splits
    evaluated_so = wanted.evaluation.model_copy(update={"splits": splits})
    return (
        splits[0] == first
        and {*others} <= {*splits}
        and there == wanted.model_copy(update={"evaluation": evaluated_so})
    )
