"""The plots of a report: metric against all bytes, and its course over rounds and over bytes.

Each is drawn three times: wide and narrow for the page, whose legend is the page's own, and with a legend for files.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from textwrap import fill
from typing import Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from igc.experiments.format import format_bytes, format_metric, shortened
from igc.experiments.plots import STYLE
from igc.experiments.report.look import FAINT, FRONTIER, INK, PAPER, QUIET, Style
from igc.experiments.report.read import Entry, Group

_RC: Final[dict[Any, Any]] = {
    **STYLE,
    "svg.fonttype": "none",
    "axes.edgecolor": FAINT[1],
    "axes.labelcolor": QUIET[1],
    "xtick.color": QUIET[1],
    "ytick.color": QUIET[1],
    "grid.color": FAINT[1],
    "grid.linewidth": 0.6,
    "text.color": INK[1],
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "ytick.major.size": 0,
}
_MANY: Final = 24  # points of a curve from which on none has a mark of its own
_LOG_FROM: Final = 20
_NEAR: Final = 5  # from the least bytes to the most: below, there are too few round numbers for a log scale
_LABEL_WIDTH: Final = 36  # letters of a name beside its point
_LEGEND_WIDTH: Final = 110  # letters that fit beside one another below a figure
_SMOOTH: Final = 0.05  # of all rounds: how many a training loss is the mean of


@dataclass(frozen=True)
class Form:
    """The shape of a figure.

    Attributes:
        width: inches.
        height: inches.
        legend: has one of its own.
        points: size of letters.
    """

    width: float
    height: float
    legend: bool
    points: float


WIDE: Final = Form(10.8, 4.9, legend=False, points=10)
NARROW: Final = Form(3.9, 3.7, legend=False, points=9.5)
FILE: Final = Form(8.4, 5.2, legend=True, points=10)

Draw = Callable[[Form], Figure]


@dataclass(frozen=True)
class Plot:
    """A plot, to be drawn in any form.

    Attributes:
        name: of its files.
        title: what it is.
        description: what it shows, for those who cannot see it.
        draw: draws it.
    """

    name: str
    title: str
    description: str
    draw: Draw

    def svg(self, form: Form) -> str:
        """The figure as SVG; the same records give the same text."""
        return self._save(form, "svg", {"Date": None, "Creator": None}).decode()

    def png(self, form: Form) -> bytes:
        """The figure as PNG, on white."""
        return self._save(form, "png", {"Software": None})

    def _save(self, form: Form, kind: str, metadata: dict[str, None]) -> bytes:
        with mpl.rc_context({**_RC, "font.size": form.points}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # a title may be in any script
            buffer = io.BytesIO()
            figure = self.draw(form)
            ground = PAPER[1] if form.legend else "none"
            figure.savefig(buffer, format=kind, dpi=160, metadata=metadata, facecolor=ground)
            return buffer.getvalue()


class Point(NamedTuple):
    """Mean and standard deviation over seeds; `total` is bytes so far."""

    round: int
    total: float
    metric: float
    std: float


def course(entry: Entry) -> list[Point]:
    """The metric over time, at each round that any seed has evaluated."""
    at: dict[int, list[tuple[float, float]]] = {}
    for run in entry.runs:
        for record in run.evaluated:
            total = record["total_up"] + record["total_down"]
            at.setdefault(record["round"], []).append((total, record["metric"]))
    points = []
    for number, found in sorted(at.items()):
        totals, values = zip(*found, strict=True)
        points.append(Point(number, fmean(totals), fmean(values), stdev(values) if len(values) > 1 else 0.0))
    return points


def frontier(entries: Sequence[Entry], *, higher_is_better: bool) -> list[Entry]:
    """Those with a result that nobody reaches or passes for as few bytes, fewest bytes first."""
    sign = -1 if higher_is_better else 1
    known = [(entry.total, sign * entry.metric, entry) for entry in entries if entry.done and entry.metric is not None]
    best = math.inf
    found: list[Entry] = []
    for _, value, entry in sorted(known, key=lambda item: item[:2]):
        if value < best:
            best = value
            found.append(entry)
    return found


def pareto(group: Group, looks: dict[str, Style], name: str) -> Plot:
    """Metric against all bytes of each entry."""
    at = {entry: place for entry in group.entries if (place := _place(entry)) is not None}
    entries = list(at)
    best = frontier(entries, higher_is_better=group.higher_is_better)
    words = "; ".join(f"{e.name}: {format_metric(y)} for {format_bytes(x)}" for e, (x, y) in at.items())

    def draw(form: Form) -> Figure:
        figure, axes = _figure(form, "all bytes, up and down, all clients (log scale)", group.metric_name)
        _bytes_axis(axes, [x for x, _ in at.values()], form, log=True)
        _value_axis(axes, [y for _, y in at.values()])
        for (x0, y0), (x1, y1) in pairwise(at[entry] for entry in best):
            axes.plot([x0, x1, x1], [y0, y0, y1], color=FRONTIER[1], lw=1.4, zorder=1.5)
        for entry, (x, y) in at.items():
            style = looks[entry.name]
            if entry.metric_std:
                axes.errorbar(x, y, entry.metric_std, color=style.light, elinewidth=1.3, capsize=3, zorder=3)
            axes.plot(
                x,
                y,
                style.mark,
                color=style.light if entry.done else PAPER[1],
                markeredgecolor=style.light,
                markeredgewidth=1.5,
                markersize=9 if form is not NARROW else 7.5,
                zorder=4,
            )
        axes.margins(x=0.09, y=0.13)
        if form is not NARROW:
            _labels(figure, axes, at, [at[entry] for entry in best], looks)
        return _finish(figure, form, entries, looks, line=False)

    return Plot(name, f"{group.metric_name} against all bytes", f"Each method is a point. {words}.", draw)


def _place(entry: Entry) -> tuple[float, float] | None:
    """Bytes and metric of the last evaluation after training began."""
    if entry.done:
        return None if entry.metric is None or not entry.total else (entry.total, entry.metric)
    points = [point for point in course(entry) if point.total > 0]
    return (points[-1].total, points[-1].metric) if points else None


def against(group: Group, entries: Sequence[Entry], looks: dict[str, Style], x: str, name: str) -> Plot:
    """The course of the metric: mean over seeds, and a band of a standard deviation.

    Args:
        group: what they are of.
        entries: whose.
        looks: by name.
        x: ``"round"`` or ``"total"``.
        name: of the files.
    """
    shown = [entry for entry in reversed(entries) if course(entry)]
    label = "round" if x == "round" else "bytes so far, up and down, all clients"

    def draw(form: Form) -> Figure:
        figure, axes = _figure(form, label, group.metric_name)
        courses = {entry: course(entry) for entry in shown}
        _value_axis(axes, [point.metric for points in courses.values() for point in points])
        log = False
        if x == "total":
            ends = [points[-1].total for points in courses.values() if points[-1].total > 0]
            log = _span(ends) >= _LOG_FROM
            _bytes_axis(axes, ends, form, log=log)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if form is not NARROW else 5))
        for entry, points in courses.items():
            _curve(axes, entry, [p for p in points if not log or p.total > 0], looks[entry.name], x)
        axes.margins(x=0.03, y=0.08)
        if log:
            before = [entry.initial for entry in shown if entry.initial is not None]
            if before:
                axes.axhline(fmean(before), color=QUIET[1], linestyle=(0, (1, 3)), linewidth=1.2)
                axes.annotate(
                    "before training",
                    (0.995, fmean(before)),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 4),
                    textcoords="offset points",
                    ha="right",
                    color=QUIET[1],
                    fontsize=form.points - 1,
                )
        return _finish(figure, form, list(entries), looks, line=True)

    ends = "; ".join(
        f"{e.name}: {format_metric(points[0].metric)} to {format_metric(points[-1].metric)}"
        for e in entries
        if (points := course(e))
    )
    what = "rounds" if x == "round" else "bytes"
    return Plot(name, f"{group.metric_name} against {what}", f"Curves from first to last evaluation. {ends}.", draw)


def loss(entries: Sequence[Entry], looks: dict[str, Style], name: str) -> Plot | None:
    """The clients' training loss over rounds, smoothed; None where no run has any."""
    found: dict[Entry, list[tuple[float, float]]] = {}
    for entry in reversed(entries):
        at: dict[int, list[float]] = {}
        for run in entry.runs:
            for record in run.records:
                if record.get("loss") is not None:
                    at.setdefault(record["round"], []).append(record["loss"])
        if len(at) > 1:
            found[entry] = _smooth([(number, fmean(values)) for number, values in sorted(at.items())])
    if not found:
        return None

    def draw(form: Form) -> Figure:
        figure, axes = _figure(form, "round", "training loss")
        values = [value for points in found.values() for _, value in points]
        _value_axis(axes, values)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if form is not NARROW else 5))
        for entry, points in found.items():
            style = looks[entry.name]
            axes.plot(
                *zip(*points, strict=True),
                color=style.light,
                marker=style.mark,
                markersize=5,
                markevery=(0, max(len(points) // 6, 1)),
                lw=1.7,
                ls="-" if entry.done else "--",
            )
        axes.margins(x=0.03, y=0.08)
        return _finish(figure, form, list(entries), looks, line=True)

    ends = "; ".join(f"{e.name}: {format_metric(points[-1][1])}" for e, points in found.items())
    return Plot(name, "training loss against rounds", f"At the end: {ends}.", draw)


def _smooth(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Means over stretches of a share of all points, at their middles."""
    size = max(round(_SMOOTH * len(points)), 1)
    stretches = [np.mean(points[start : start + size], axis=0) for start in range(0, len(points), size)]
    return [(float(number), float(value)) for number, value in stretches]


def _figure(form: Form, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(form.width, form.height))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
    axes = figure.add_subplot()
    axes.set_xlabel(x if form is not NARROW else x.replace(", up and down, all clients", ""))
    axes.set_title(y, loc="left", fontsize=form.points, color=QUIET[1], pad=8)
    return figure, axes


def _finish(figure: Figure, form: Form, entries: Sequence[Entry], looks: dict[str, Style], *, line: bool) -> Figure:
    if form.legend:
        names = list(dict.fromkeys(entry.name for entry in entries))
        open_ones = {entry.name for entry in entries if not entry.done}
        notes = {e.name: "" if e.done else " (in progress)" if e.going else " (no result)" for e in entries}
        handles = [
            Line2D(
                [],
                [],
                color=looks[name].light,
                marker=looks[name].mark,
                markerfacecolor=PAPER[1] if name in open_ones else looks[name].light,
                linestyle=("--" if name in open_ones else "-") if line else "none",
                label=fill(f"{name}{notes[name]}", _LEGEND_WIDTH),
            )
            for name in names
        ]
        # A column is as wide as its longest label, and a mark and a gap of nine letters or so.
        widest = max((len(line) for handle in handles for line in str(handle.get_label()).splitlines()), default=0)
        columns = min(max(_LEGEND_WIDTH // (widest + 9), 1), 4)
        figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=form.points - 1)
    return figure


def _curve(axes: Axes, entry: Entry, points: list[Point], style: Style, x: str) -> None:
    if not points:
        return
    places = [point.round if x == "round" else point.total for point in points]
    values = np.array([point.metric for point in points])
    spread = np.array([point.std for point in points])
    if spread.any():
        axes.fill_between(
            places, values - spread, values + spread, color=style.light, alpha=0.18, linewidth=0, zorder=2
        )
    axes.plot(
        places,
        values,
        color=style.light,
        linewidth=1.8,
        linestyle="-" if entry.done else "--",
        marker=style.mark,
        markersize=5.5,
        markevery=max(len(points) // 8, 1) if len(points) > _MANY else 1,
        markerfacecolor=style.light if entry.done else PAPER[1],
        zorder=3,
    )


def _bytes_axis(axes: Axes, totals: Sequence[float], form: Form, *, log: bool) -> None:
    if log:
        axes.set_xscale("log")
        if len(set(totals)) == 1:
            axes.set_xlim(totals[0] / 2, totals[0] * 2)
        span = _span(totals)
        between = (1, 2, 5) if form is not NARROW or span < 10 else (1, 3)  # as many as have room side by side
        round_ones = LogLocator(subs=between if span < 200 else (1,), numticks=12)
        axes.xaxis.set_major_locator(MaxNLocator(4) if span < _NEAR else round_ones)
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_bytes(value)))


def _short_bytes(value: float) -> str:
    """``"100 kB"`` rather than ``"100.0 kB"``: ticks are round."""
    if value <= 0:
        return "0"
    number, unit = format_bytes(value).split(" ")
    return f"{float(number.replace(',', '')):g} {unit}"


def _value_axis(axes: Axes, values: Sequence[float]) -> None:
    if _span(values) >= _LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _span(values: Sequence[float]) -> float:
    """Largest over smallest; 1 unless all are positive."""
    return max(values) / min(values) if len(values) and min(values) > 0 else 1.0


_PLACES: Final = (
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top"),
    (7, 8, "left", "bottom"), (7, -8, "left", "top"), (-7, 8, "right", "bottom"), (-7, -8, "right", "top"),
    (0, 20, "center", "bottom"), (0, -20, "center", "top"), (12, 18, "left", "bottom"), (12, -18, "left", "top"),
    (-12, 18, "right", "bottom"), (-12, -18, "right", "top"),
)  # fmt: skip


def _labels(
    figure: Figure,
    axes: Axes,
    at: Mapping[Entry, tuple[float, float]],
    line: Sequence[tuple[float, float]],
    looks: dict[str, Style],
) -> None:
    """A name beside each point, where it covers no point, no other name and not the line; else where it covers least."""
    figure.draw_without_rendering()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    room = axes.get_window_extent().padded(2)
    taken = [
        Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in (axes.transData.transform(place) for place in at.values())
    ]
    for (x0, y0), (x1, y1) in pairwise(axes.transData.transform(place) for place in line):
        taken += [
            Bbox.from_extents(x0, y0 - 1, x1, y0 + 1),
            Bbox.from_extents(x1 - 1, min(y0, y1), x1 + 1, max(y0, y1)),
        ]
    for number, (entry, place) in enumerate(at.items()):
        name = entry.name if _once(entry, list(at)) else f"{entry.name}, {entry.budget}"
        label = axes.annotate(
            shortened(name, _LABEL_WIDTH),
            place,
            xytext=(0, 0),
            textcoords="offset points",
            color=looks[entry.name].light,
            fontsize=9,
            zorder=5,
        )
        best: tuple[float, int] | None = None
        for order, (dx, dy, horizontal, vertical) in enumerate(_PLACES):
            label.set(position=(dx, dy), ha=horizontal, va=vertical)
            box = label.get_window_extent()
            others = [other for index, other in enumerate(taken) if index != number]
            cost = sum(_overlap(box, other) for other in others) + 4 * (box.width * box.height - _overlap(box, room))
            if best is None or cost < best[0] - 1:
                best = cost, order
            if cost < 1:
                break
        assert best is not None
        dx, dy, horizontal, vertical = _PLACES[best[1]]
        label.set(position=(dx, dy), ha=horizontal, va=vertical)
        taken.append(label.get_window_extent())


def _once(entry: Entry, entries: Sequence[Entry]) -> bool:
    return sum(other.name == entry.name for other in entries) == 1


def _overlap(a: Bbox, b: Bbox) -> float:
    common = Bbox.intersection(a, b)
    return 0.0 if common is None else float(common.width * common.height)
