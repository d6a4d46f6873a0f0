"""The picture of a study: quality against d."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from igc.experiments.atomic import AGAIN, write_atomically
from igc.experiments.dimension.study import Study
from igc.experiments.plots import STYLE

_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#5F5F5F"


def write_plot(folder: Path, study: Study) -> list[Path]:
    """Draw ``dimension.png`` and ``dimension.svg``.

    Raises:
        RunError: a file cannot be written.
    """
    paths = []
    with mpl.rc_context(STYLE):
        figure = _figure(study)
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
            paths.append(folder / f"dimension.{kind}")
            write_atomically(paths[-1], buffer.getvalue(), then=AGAIN)
    return paths


def _figure(study: Study) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    drawn = [(point, point.metric) for point in study.points if point.metric is not None]
    d, metric = [point.d for point, _ in drawn], [metric for _, metric in drawn]
    axes.errorbar(
        d, metric, [point.metric_std or 0.0 for point, _ in drawn], color=_GREY, linewidth=1.2, capsize=3, zorder=2
    )
    for reached, colour, word in ((True, _BLUE, "reaches it"), (False, _RED, "does not")):
        chosen = [(point.d, metric) for point, metric in drawn if point.reached is reached]
        axes.plot(
            [d for d, _ in chosen],
            [metric for _, metric in chosen],
            "o" if reached else "X",
            color=colour,
            label=word,
            zorder=3,
        )
    if broken := [point.d for point in study.points if point.metric is None]:  # no metric: at the foot of the axes
        foot = axes.get_xaxis_transform()
        axes.plot(broken, [0.03] * len(broken), "x", color=_RED, label="broke down", transform=foot, zorder=3)
    axes.axhline(study.uncompressed, color=_GREY, linewidth=1, label=f"uncompressed, {study.uncompressed:.4g}")
    axes.axhline(study.bar, color=_BLUE, linewidth=1, linestyle="--", label=f"target, {study.bar:.4g}")
    if study.initial is not None:
        axes.axhline(study.initial, color="#C4C4C4", linewidth=1, label=f"before training, {study.initial:.4g}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value):,}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"d, dimensions of the subspace (D = {study.D:,})")
    axes.set_ylabel(study.metric_name)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    answer = "not reached" if study.d is None else f"d = {study.d:,}"
    axes.set_title(
        f"{study.title}: {100 * study.target:g}% of uncompressed ({study.measure}) with {answer}",
        loc="left",
        fontsize=11,
    )
    return figure
