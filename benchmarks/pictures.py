"""Pictures of docs/results/*.json: metric against the bytes of a whole run, one picture a task, into docs/images.

    python benchmarks/pictures.py [GRID ...]

Ours are the methods that train inside a subspace of all weights; the line is the best that any method reaches for so many
bytes. Bars are the spread over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parent))

from comparisons import known  # type: ignore[import-not-found]
from grids import CALLED, GRIDS  # type: ignore[import-not-found]
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igc.experiments.compare.names import parts
from igc.experiments.format import format_bytes

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
OURS: Final = ("static", "static-1bit", "time-varying", "k-subspace", "recipe")
# Grid -> (file and title, grids whose lines of as many rounds are shown, too).
PICTURES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "movie-reviews": ("Movie reviews, MiniLM", ()),
    "fashion-mnist": ("Fashion-MNIST, ResNet-9", ("fashion-mnist-100",)),
    "shakespeare": ("Shakespeare by role, SmolLM2-135M", ()),
}
FAR: Final = 1.5  # times from the best metric: what is farther is told, not drawn
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="*", help=f"of {', '.join(PICTURES)}; all by default")
    asked = parser.parse_args()
    # Text stays text, and two runs give the same file.
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "igc"}
    for grid in asked.grids or PICTURES:
        figure = draw(grid)
        for ending in ("svg", "png"):
            figure.savefig(IMAGES / f"{grid}.{ending}", dpi=160, metadata={"Date": None} if ending == "svg" else None)


def draw(grid: str) -> Figure:
    """The picture of a grid."""
    title, others = PICTURES[grid]
    lines = [line for line in known(grid) if line["metric"] is not None]
    rounds = lines[0]["rounds"]
    lines += [line for other in others for line in known(other) if line["rounds"] == rounds]
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    axes = figure.subplots()
    points: dict[str, tuple[float, float, dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["seeds"]):  # of two grids' lines of one entrant, that of more seeds
        name = label(line, GRIDS[grid].recipe)
        if name in points and points[name][2]["method"] != line["method"]:
            raise SystemExit(f"'{name}' would be two entrants: {points[name][2]['method']} and {line['method']}")
        points[name] = line["bytes_up"] + line["bytes_down"], line["metric"], line
    # One that learned nothing would press all others together.
    higher = lines[0]["higher_is_better"]
    best = (max if higher else min)(line["metric"] for line in lines)
    far = {name: y for name, (_, y, _) in points.items() if (y < best / FAR if higher else y > best * FAR)}
    points = {name: point for name, point in points.items() if name not in far}
    for total, metric, line in points.values():
        colour = BLUE if parts(line["method"])[0] in OURS else ORANGE
        axes.errorbar(
            total, metric, line["metric_std"] if line["seeds"] > 1 else None, fmt="o", color=colour, capsize=3
        )
    front(axes, sorted((total, metric) for total, metric, _ in points.values()), higher)
    axes.set_xscale("log")
    ticks = [10**n for n in range(5, 11)]
    axes.set_xticks(ticks, [format_bytes(tick) for tick in ticks])
    axes.set_xlim(right=8 * max(total for total, _, _ in points.values()))
    axes.set_xlabel(
        "all bytes of a run, up and down" + "".join(f"; not shown: {name}, {y:.3f}" for name, y in far.items())
    )
    axes.set_ylabel(lines[0]["metric_name"] + ("" if higher else " (lower is better)"))
    axes.set_title(f"{title}: {rounds} rounds, each method tuned alike. Blue: ours; orange: rivals", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.6)
    write(axes, {name: (total, metric) for name, (total, metric, _) in points.items()})
    return figure


def label(line: dict[str, Any], recipe: str) -> str:
    """The method, short."""
    name, *settings = parts(line["method"])
    if line["method"] in CALLED:
        called: str = CALLED[line["method"]]
        return called.replace("`", "").replace("*", "").removeprefix("the same ").split(", Adam on")[0]
    if name == "recipe":
        return f"recipe {recipe}"
    words = [name, *(s.removeprefix("optimizer.name=") for s in settings if s.startswith("optimizer.name="))]
    dims = [setting.removeprefix("method.dim=") for setting in settings if setting.startswith("method.dim=")]
    if dims:
        words.append(f"d = {int(dims[0]):,}")
    words += ["error feedback"] * ("method.error_feedback=true" in settings)
    words += ["scaled by gradients"] * ("method.scale=calibrated" in settings)
    for way in ("up", "down"):
        words += [f"{s.removeprefix(f'codec.{way}=')} {way}" for s in settings if s.startswith(f"codec.{way}=")]
    return ", ".join(words)


def front(axes: Axes, points: Sequence[tuple[float, float]], higher: bool) -> None:
    """A line of steps through what nothing beats for as few bytes."""
    best: list[tuple[float, float]] = []
    for total, metric in points:
        if not best or (metric > best[-1][1] if higher else metric < best[-1][1]):
            best.append((total, metric))
    axes.step(*zip(*best, strict=True), where="post", color=GREY, linewidth=1, zorder=0)


def write(axes: Axes, places: dict[str, tuple[float, float]]) -> None:
    """Names beside points, each as near as others leave room."""
    axes.figure.canvas.draw()
    taken = [axes.transData.transform(place) for place in places.values()]
    boxes: list[tuple[float, float, float, float]] = [(x - 5, y - 5, x + 5, y + 5) for x, y in taken]
    for (name, place), (x, y) in sorted(zip(places.items(), taken, strict=True), key=lambda found: -found[1][1]):
        width, height = 5.8 * len(name), 11.0
        for dx, dy in (
            (dx, dy) for dy in (-5, 7, -17, 19, -29, 31, -41, 43, -53, 55, -65, 67, -77) for dx in (8, -14 - width)
        ):
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            inside = axes.bbox.x0 < box[0] and box[2] < axes.bbox.x1 and axes.bbox.y0 < box[1] and box[3] < axes.bbox.y1
            if inside and not any(a < box[2] and box[0] < c and b < box[3] and box[1] < d for a, b, c, d in boxes):
                break
        boxes.append(box)
        axes.annotate(
            name,
            place,
            (dx * 0.72, dy * 0.72),
            textcoords="offset points",
            fontsize=8,
            color="#333333",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            zorder=2,
        )


if __name__ == "__main__":
    main()
