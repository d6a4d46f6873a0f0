"""igc: intrinsic gradient compression, the training of PyTorch models over thin wires.

Names are imported when they are first used, so that ``import igc`` and ``igc --help`` do not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igc.adapter import load_adapter, save_adapter
    from igc.errors import IgcError
    from igc.optim import SubspaceOptimizer
    from igc.projection import (
        BlockedHadamard,
        DenseGaussian,
        Fastfood,
        Identity,
        InPlaceTheta,
        Partition,
        Projection,
        Term,
        Theta,
        add_expanded_,
        check_adjoint,
        make_projection,
        project_as_born,
        project_tensors,
        projection_from_spec,
        to_dense,
    )
    from igc.space import ParameterSpace

__version__ = version("intrinsic-gradient-compression")

_HOMES = {
    "igc.adapter": ("load_adapter", "save_adapter"),
    "igc.errors": ("IgcError",),
    "igc.optim": ("SubspaceOptimizer",),
    "igc.projection": (
        "BlockedHadamard",
        "DenseGaussian",
        "Fastfood",
        "Identity",
        "InPlaceTheta",
        "Partition",
        "Projection",
        "Term",
        "Theta",
        "add_expanded_",
        "check_adjoint",
        "make_projection",
        "project_as_born",
        "project_tensors",
        "projection_from_spec",
        "to_dense",
    ),
    "igc.space": ("ParameterSpace",),
}

__all__ = [
    "BlockedHadamard",
    "DenseGaussian",
    "Fastfood",
    "Identity",
    "IgcError",
    "InPlaceTheta",
    "ParameterSpace",
    "Partition",
    "Projection",
    "SubspaceOptimizer",
    "Term",
    "Theta",
    "__version__",
    "add_expanded_",
    "check_adjoint",
    "load_adapter",
    "make_projection",
    "project_as_born",
    "project_tensors",
    "projection_from_spec",
    "save_adapter",
    "to_dense",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'igc' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
