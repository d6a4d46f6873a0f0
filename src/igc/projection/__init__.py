"""Seeded random projections A of shape (D, d), D >> d, that every party regenerates for itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from igc.errors import ProjectionError, did_you_mean
from igc.projection.base import Projection, check_adjoint, to_dense
from igc.projection.blocked_hadamard import BlockedHadamard
from igc.projection.columns import Columns
from igc.projection.coordinates import Coordinates
from igc.projection.count_sketch import CountSketch
from igc.projection.dense_gaussian import DenseGaussian
from igc.projection.direct_sum import DirectSum
from igc.projection.fastfood import Fastfood
from igc.projection.identity import Identity
from igc.projection.in_place import InPlaceTheta
from igc.projection.learned import Learned
from igc.projection.partition import Partition
from igc.projection.scaled import Scaled
from igc.projection.streaming import project_as_born
from igc.projection.tensors import add_expanded_, project_tensors
from igc.projection.theta import Term, Theta

FAMILIES: dict[str, type[Projection]] = {
    family.family: family
    for family in (
        BlockedHadamard,
        Fastfood,
        Partition,
        DenseGaussian,
        Identity,
        CountSketch,
        Coordinates,
        Scaled,
        DirectSum,
        Columns,
    )
}


def make_projection(family: str, **settings: Any) -> Projection:
    """A projection by the name of its family; ``make_projection(**p.spec()) == p``.

    Raises:
        ProjectionError: the family is unknown, or a setting does not belong to it.
    """
    if family == "learned":
        raise ProjectionError("learned directions are a run's own: they are in its state, and no spec rebuilds them")
    if family not in FAMILIES:
        raise ProjectionError(
            f"unknown projection '{family}'{did_you_mean(family, FAMILIES)}; known are {', '.join(FAMILIES)}"
        )
    known = inspect.signature(FAMILIES[family]).parameters
    if foreign := sorted(settings.keys() - known.keys()):
        raise ProjectionError(f"projection '{family}' has no setting {', '.join(foreign)}; it has {', '.join(known)}")
    if isinstance(inner := settings.get("inner"), Mapping):  # as a spec has it
        settings["inner"] = projection_from_spec(inner)
    if "parts" in settings:
        parts = settings["parts"]
        settings["parts"] = [projection_from_spec(part) if isinstance(part, Mapping) else part for part in parts]
    return FAMILIES[family](**settings)


def projection_from_spec(spec: Mapping[str, Any]) -> Projection:
    """The projection that a spec names; the inverse of `Projection.spec`."""
    return make_projection(**spec)


__all__ = [
    "FAMILIES",
    "BlockedHadamard",
    "Columns",
    "Coordinates",
    "CountSketch",
    "DenseGaussian",
    "DirectSum",
    "Fastfood",
    "Identity",
    "InPlaceTheta",
    "Learned",
    "Partition",
    "Projection",
    "Scaled",
    "Term",
    "Theta",
    "add_expanded_",
    "check_adjoint",
    "make_projection",
    "project_as_born",
    "project_tensors",
    "projection_from_spec",
    "to_dense",
]
