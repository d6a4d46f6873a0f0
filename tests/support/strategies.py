"""What Hypothesis draws: projections of every registered family, and vectors."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor

from igc.projection import FAMILIES, Columns, DirectSum, Identity, Projection, Scaled, make_projection
from igc.projection.philox import child_seed

COMPRESSING = sorted(FAMILIES.keys() - {"identity"})


def make(family: str, D: int, d: int, seed: int) -> Projection:
    """A projection of a family with these sizes, whatever else it takes."""
    if family == "scaled":
        sizes = [D // 3, 0, 1, D - D // 3 - 1] if D > 1 else [D]
        return Scaled.of(make("blocked-hadamard", D, d, seed), sizes, [2.0, 9.0, 3.0, 1.0][: len(sizes)])
    if family == "direct-sum":
        if D < 4 or d < 3 or d > D:  # too little to be dealt out
            return DirectSum((make("blocked-hadamard", D, d, seed),), (D,), (0,))
        full = 1 if d < 8 else 2
        rest = D - full
        more, less = rest // 2, rest - rest // 2
        columns = min(max((d - full) // 2, 1), more)
        parts = make("blocked-hadamard", more, columns, seed), make("partition", less, d - full - columns, seed)
        cut = more // 3
        sizes, groups = [cut, full, 0, less, more - cut], [0, 2, 1, 1, 0]
        return DirectSum((*parts, Identity(full, full, seed)), tuple(sizes), tuple(groups))
    if family == "columns":
        first = make("blocked-hadamard", D, d - d // 2, seed)
        return Columns((first, make("partition", D, d // 2, child_seed(seed, 1))) if d > 1 else (first,))
    return make_projection(family, D=D, d=d, seed=seed)


@st.composite
def _direct_sums(draw: st.DrawFn, max_rows: int, max_dim: int) -> Projection:
    families = draw(st.lists(st.sampled_from(["blocked-hadamard", "partition", "identity"]), min_size=1, max_size=3))
    parts = [draw(projections(family, max(max_rows // 4, 1), max(max_dim // 3, 1))) for family in families]
    tensors: list[tuple[int, int]] = []
    for group, part in enumerate(parts):
        cuts = sorted(draw(st.lists(st.integers(0, part.D), max_size=3)))
        tensors += [(b - a, group) for a, b in pairwise([0, *cuts, part.D])]
    tensors = draw(st.permutations(tensors))
    return DirectSum(tuple(parts), tuple(size for size, _ in tensors), tuple(group for _, group in tensors))


@st.composite
def _columns(draw: st.DrawFn, max_rows: int, max_dim: int) -> Projection:
    parts = [draw(projections("blocked-hadamard", max_rows, max(max_dim // 3, 1)))]
    D = parts[0].D
    for family in draw(st.lists(st.sampled_from(["blocked-hadamard", "partition", "scaled"]), max_size=2)):
        room = min(D - sum(part.d for part in parts), max(max_dim // 3, 1))
        if room > 0:
            parts.append(make(family, D, draw(st.integers(1, room)), draw(st.integers(0, 2**64 - 1))))
    return Columns(tuple(parts))


@st.composite
def projections(draw: st.DrawFn, family: str, max_rows: int = 3000, max_dim: int = 200) -> Projection:
    """Any D, any 1 <= d <= D, any seed; Hadamard blocks of any size that the family takes."""
    if family == "direct-sum":
        return draw(_direct_sums(max_rows, max_dim))
    if family == "columns":
        return draw(_columns(max_rows, max_dim))
    if family == "scaled":
        inner = draw(
            projections(draw(st.sampled_from(["blocked-hadamard", "partition", "direct-sum"])), max_rows, max_dim)
        )
        cuts = sorted(draw(st.lists(st.integers(0, inner.D), max_size=5)))
        sizes = [b - a for a, b in pairwise([0, *cuts, inner.D])]
        raw = draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
        return Scaled.of(inner, sizes, raw)
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
