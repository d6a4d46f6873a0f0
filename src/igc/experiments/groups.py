"""Tensors in groups, each with dimensions of its own: budgets, and small tensors that are sent in full."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from igc.errors import ProjectionError, SpaceError
from igc.projection import DirectSum, Identity, Projection
from igc.projection.philox import child_seed
from igc.space import ParameterSpace

# Seeds of groups are children of the recipe's projection by steps that no epoch ever reaches.
_FIRST_GROUP: Final = 2**62


def grouped(
    make: Callable[[int, int, int], Projection],
    space: ParameterSpace,
    dim: int,
    seed: int,
    *,
    full: Sequence[str] = (),
    full_below: int = 0,
    budgets: Mapping[str, int] | None = None,
) -> Projection:
    """A projection that gives each group of tensors its dimensions; without groups the plain one.

    Args:
        make: a projection from D, d and a seed.
        space: of the model.
        dim: d of all tensors that are in no group.
        seed: of their projection; other groups have children of it.
        full: glob patterns of tensors that are sent in full.
        full_below: tensors with fewer elements are, too.
        budgets: glob pattern -> d of all other tensors that fit; the first pattern that fits counts. Tensors with fewer
            elements than that are sent in full.

    Raises:
        ProjectionError: ``dim`` has fewer elements than dimensions, or none is left for it or for a budget.
        SpaceError: a pattern fits no tensor.
    """
    budgets = budgets or {}
    for key, patterns in (("full", full), ("budgets", budgets)):
        check_patterns(f"method.{key}", patterns, space)
    sizes = [entry.size for entry in space.entries]
    places = [_group(entry.name, entry.size, full, full_below, list(budgets)) for entry in space.entries]
    last = len(budgets) + 1
    for place, pattern in enumerate(budgets, 1):
        if place not in places:
            takers = _takers(pattern, space, full, full_below, list(budgets))
            raise ProjectionError(
                f"method.budgets: '{pattern}' gets no tensor, since all that fit it are taken by {', '.join(takers)};"
                " remove one or the other"
            )
    rows = {place: sum(s for s, own in zip(sizes, places, strict=True) if own == place) for place in set(places)}
    if 0 not in rows:
        raise ProjectionError(
            "method.full and method.budgets take every tensor, and none is left for method.dim; leave some out of them"
        )
    if rows.keys() == {0}:
        return make(space.D, dim, seed)
    if dim > rows[0]:
        raise ProjectionError(f"method.dim = {dim:,} exceeds the {rows[0]:,} parameters of its tensors; lower it")
    parts = {0: make(rows[0], dim, seed)}
    for place, d in enumerate(budgets.values(), 1):
        if d <= rows[place]:
            parts[place] = make(rows[place], d, child_seed(seed, _FIRST_GROUP + place))
        else:  # which takes fewer numbers than a sketch would
            parts[place] = Identity(rows[place], rows[place], 0)
    if last in rows:
        parts[last] = Identity(rows[last], rows[last], 0)
    order = list(parts)
    return DirectSum(tuple(parts.values()), tuple(sizes), tuple(order.index(place) for place in places))


def check_patterns(key: str, patterns: Sequence[str] | Mapping[str, object], space: ParameterSpace) -> None:
    """Whether each pattern fits a tensor.

    Raises:
        SpaceError: one does not.
    """
    names = [entry.name for entry in space.entries]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SpaceError(
                f"{key}: no trained parameter matches '{pattern}'; their names look like: {', '.join(names[:4])}"
            )


def _group(name: str, size: int, full: Sequence[str], full_below: int, budgets: Sequence[str]) -> int:
    """0: the rest; 1, 2, ...: the budgets; one more: in full."""
    if size < full_below or any(fnmatchcase(name, pattern) for pattern in full):
        return len(budgets) + 1
    return next((i for i, pattern in enumerate(budgets, 1) if fnmatchcase(name, pattern)), 0)


def _takers(
    pattern: str, space: ParameterSpace, full: Sequence[str], full_below: int, budgets: Sequence[str]
) -> list[str]:
    """What comes before a budget to all tensors that fit it, as a recipe has it."""
    found: dict[str, None] = {}
    for entry in space.entries:
        if not fnmatchcase(entry.name, pattern):
            continue
        if entry.size < full_below:
            found[f"full_below = {full_below}"] = None
            continue
        owner = next((other for other in full if fnmatchcase(entry.name, other)), None)
        if owner is not None:
            found[f"'{owner}' of method.full"] = None
            continue
        found[f"'{next(other for other in budgets if fnmatchcase(entry.name, other))}' before it"] = None
    return list(found)
