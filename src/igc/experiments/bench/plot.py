"""The figures of `igc bench projection` as one picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from igc.experiments.atomic import write_atomically

_BARS: Final = {
    "read_ms": "read once (sum)",
    "copy_ms": "copy",
    "axpy_ms": "x += y",
    "project_ms": "project",
    "expand_ms": "add expanded",
    "partition_project_ms": "project, partition",
    "partition_expand_ms": "add expanded, partition",
    "powersgd_ms": "PowerSGD, rank 1",
    "reference_project_ms": "project, PyTorch",
    "reference_expand_ms": "add expanded, PyTorch",
    "topk_ms": "top 50,000",
    "count_sketch_ms": "count sketch 5 x 500,000, hashed",
    "count_sketch_shifted_ms": "count sketch 5 x 500,000, igc's",
    "fastfood_blocked_ms": "Fastfood, in blocks",
    "fastfood_ms": "Fastfood, padded",
}
_OURS: Final = ("project_ms", "expand_ms")


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write horizontal bars, milliseconds on a logarithmic axis; the suffix of ``path`` says the format.

    Raises:
        RunError: it cannot be written.
    """
    names = [name for name in _BARS if name in figures]
    figure = Figure(figsize=(8, 0.5 + 0.4 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    colours = ["#0072b2" if name in _OURS else "#999999" for name in names]
    bars = axes.barh([_BARS[name] for name in names], [figures[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    where = figures.get("gpu", f"{figures['threads']} threads")
    axes.set_title(f"D = {figures['params']:,}, d = {figures['dim']:,}, {figures['dtype']}, {where}", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.lower().removeprefix("."))
    write_atomically(path, drawn.getvalue(), then="measure again, or choose another place with --plot")
