"""igc: intrinsic gradient compression, the training of PyTorch models over thin wires."""

from importlib.metadata import version

from igc.adapter import load_adapter, save_adapter
from igc.errors import IgcError
from igc.optim import SubspaceOptimizer
from igc.projection import (
    BlockedHadamard,
    DenseGaussian,
    Fastfood,
    Identity,
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

__all__ = [
    "BlockedHadamard",
    "DenseGaussian",
    "Fastfood",
    "Identity",
    "IgcError",
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
