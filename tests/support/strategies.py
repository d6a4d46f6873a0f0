"""What Hypothesis draws: projections of every registered family, and vectors."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from igc.projection import FAMILIES, Projection, make_projection

COMPRESSING = sorted(FAMILIES.keys() - {"identity"})


@st.composite
def projections(draw: st.DrawFn, family: str, max_rows: int = 3000, max_dim: int = 200) -> Projection:
    """Any D, any 1 <= d <= D, any seed; Hadamard blocks of any size that the family takes."""
    D = draw(st.integers(1, max_rows))
    d = D if family == "identity" else draw(st.integers(1, min(D, max_dim)))
    settings = {}
    if family == "blocked-hadamard":
        settings["block"] = draw(st.sampled_from([0, 1, 2, 8, 32, 256, 1024]))
    if family == "fastfood":
        settings["block"] = draw(st.sampled_from([0, 256, 4096]))
        if settings["block"] < d:
            settings["block"] = 0
    if family == "count-sketch":
        settings["rows"] = draw(st.sampled_from([rows for rows in (1, 2, 3, 5) if d % rows == 0]))
    return make_projection(family, D=D, d=d, seed=draw(st.integers(0, 2**64 - 1)), **settings)


def vector(size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A normal vector from an explicit generator."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)
