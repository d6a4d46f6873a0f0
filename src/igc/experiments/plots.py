"""Plots of a run: its metric against rounds, and against the bytes that crossed the wire.

Drawn on figures of their own, without pyplot and its global state; the same records give the same files. Colours are
those of Okabe and Ito, which people with any kind of colour vision tell apart.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from igc.experiments import metrics
from igc.experiments.atomic import write_atomically
from igc.experiments.format import format_bytes, format_metric

_SPLITS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_FADED = "#C4C4C4"
_QUIET = "#5F5F5F"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": _FADED,
    "axes.labelcolor": _QUIET,
    "axes.spines.top": False,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#ECECEC",
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,
    "svg.hashsalt": "igc",
}
_LOG_FROM = 20  # a range of this factor is drawn on a logarithmic axis
_DENSE = 30  # more points than this are drawn without a mark each
_WIDTH = 100  # about as many letters fit in a row of the legend
_BINS = 300  # a longer loss is drawn as the means of so many stretches of it


def write_plots(folder: Path, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Path]:
    """Draw ``metric-vs-rounds`` and ``metric-vs-bytes``, each as PNG and SVG.

    Args:
        folder: where to; made if need be.
        records: lines of ``metrics.jsonl``.
        summary: as in ``summary.json``; used are title, method, d, D, split, metric_name and model_bytes.

    Returns:
        What was written.

    Raises:
        RunError: a file cannot be written.
    """
    paths = []
    records = [metrics.of_split(record, summary["split"]) for record in records]
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a title may be in any script
        for name, draw in (("metric-vs-rounds", _against_rounds), ("metric-vs-bytes", _against_bytes)):
            figure = draw(records, summary)
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
                paths.append(folder / f"{name}.{kind}")
                write_atomically(paths[-1], buffer.getvalue())
    return paths


def _against_rounds(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Figure:
    figure, axes = _figure(summary)
    _loss(axes, records, "round")
    _metrics(axes, records, summary, "round")
    last = max((record["round"] for record in records), default=0) or 1
    axes.set_xlim(-0.05 * last, 1.05 * last)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return _with_legend(figure)


def _against_bytes(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Figure:
    figure, axes = _figure(summary)
    model = summary["model_bytes"]
    sums = [{**record, "bytes": record["total_up"] + record["total_down"]} for record in records]
    evaluated = [record for record in sums if record.get("metric") is not None]
    span = _span([model, *(record["bytes"] for record in evaluated if record["bytes"])])
    if span >= _LOG_FROM:
        sums = [record for record in sums if record["bytes"]]
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(_log_locator(_span([model, *(record["bytes"] for record in sums)])))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if evaluated and evaluated[0]["bytes"] == 0:  # has no place on this axis
            axes.axhline(evaluated[0]["metric"], color=_QUIET, linestyle=":", linewidth=1.2, label="before training")
    _loss(axes, sums, "bytes")
    _metrics(axes, sums, summary, "bytes")
    label = f"sending the model once ({format_bytes(model)})"
    axes.axvline(model, color=_QUIET, linestyle="--", linewidth=1.2, label=label)
    axes.set_xlabel("bytes sent so far, up and down, all clients")
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    return _with_legend(figure)


def _figure(summary: Mapping[str, Any]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.5))
    figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.98, 0.78))
    d, D = summary["d"], summary["D"]
    sizes = f"d = {d:,} of D = {D:,}" if d < D else f"all D = {D:,} numbers"
    figure.text(0.02, 0.945, summary["title"], fontsize=13, fontweight="bold")
    figure.text(0.02, 0.895, f"{summary['method']}, {sizes}", color=_QUIET)
    axes = figure.add_subplot()
    axes.set_ylabel(summary["metric_name"])
    return figure, axes


def _metrics(axes: Axes, records: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], x: str) -> None:
    """The metric on each split; the headline on top and with its last value."""
    metric_name = summary["metric_name"]
    evaluated = [record for record in records if record.get("metric") is not None]
    others = (split for record in evaluated for split in record["metrics"])
    splits = list(dict.fromkeys([summary["split"], *others])) if evaluated else []
    shown: list[float] = []
    for number, split in reversed(list(enumerate(splits))):
        points = [(record[x], record["metrics"].get(split, {}).get(metric_name)) for record in evaluated]
        places, values = zip(*((place, math.nan if value is None else value) for place, value in points), strict=True)
        color, headline = _SPLITS[number % len(_SPLITS)], number == 0
        shown += values
        axes.plot(
            places,
            values,
            color=color,
            linewidth=2.2 if headline else 1.6,
            marker="o" if len(points) <= _DENSE else None,
            markersize=5 if headline else 3.5,
            label=split,
            zorder=4 - number / 10,
        )
        if headline:
            axes.annotate(
                format_metric(values[-1]),
                (places[-1], values[-1]),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
                color=color,
                zorder=5,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    if not shown:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing was evaluated yet", ha="center", color=_QUIET, transform=axes.transAxes)
    elif (span := _span(shown)) >= _LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(_log_locator(span))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.05, y=0.12)


def _loss(axes: Axes, records: Sequence[Mapping[str, Any]], x: str) -> None:
    """The training loss, faint, on an axis of its own at the right, behind the metric."""
    points = [(record[x], record["loss"]) for record in records if record.get("loss") is not None]
    if not points:
        return
    size = math.ceil(len(points) / _BINS)
    stretches = [np.mean(points[start : start + size], axis=0) for start in range(0, len(points), size)]
    behind = axes.twinx()
    behind.grid(visible=False)
    behind.plot(
        *zip(*stretches, strict=True),
        color=_FADED,
        linewidth=1,
        marker="." if len(stretches) == 1 else None,
        label="training loss",
    )
    behind.set_ylabel("training loss", color=_QUIET)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)


def _with_legend(figure: Figure) -> Figure:
    """One legend for all axes, above the plot, in two rows where one is too long."""
    entries = [entry for axes in figure.axes for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    if entries:
        entries.sort(key=lambda entry: -entry[0].get_zorder())
        handles, labels = zip(*entries, strict=True)
        rows = 1 if sum(map(len, labels)) + 6 * len(labels) <= _WIDTH else 2
        figure.legend(
            handles,
            labels,
            loc="center left",
            bbox_to_anchor=(0.01, 0.835),
            ncols=math.ceil(len(entries) / rows),
            frameon=False,
            fontsize=9 if rows == 1 else 7.5,
            labelspacing=0.3,
            handlelength=1.6,
            columnspacing=1.4,
        )
    return figure


def _span(values: Sequence[float]) -> float:
    """Largest over smallest; 1 unless all are positive."""
    known = [value for value in values if not math.isnan(value)]
    return max(known) / min(known) if known and min(known) > 0 else 1.0


def _log_locator(span: float) -> LogLocator:
    """Ticks at every decade, and between them where there are few decades."""
    return LogLocator(subs=(1, 2, 5) if span < 50 else (1,))
