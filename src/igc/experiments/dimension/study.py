"""A study of the intrinsic dimension: runs at one d after the other, in a comparison's folder.

STUDY/dimension.json          the answer and every point of the latest search
STUDY/dimension.svg, .png     quality against d
STUDY/comparison.json         the same runs as a comparison, for `igc report`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

from igc.errors import RunError
from igc.experiments.atomic import AGAIN, write_atomically
from igc.experiments.compare.campaign import Terms
from igc.experiments.compare.comparison import Line, Say, compare
from igc.experiments.compare.entrants import entrants
from igc.experiments.compare.execute import Executor
from igc.experiments.dimension.search import bracket, next_dim
from igc.experiments.recipe import Recipe
from igc.experiments.run import Run

JSON: Final = "dimension.json"
_YARDSTICK: Final = "fedsgd"
_LOSSLESS: Final = "+codec={}"
# What the search itself sets, and what would add dimensions to d.
_SEARCHED: Final = (
    *("method", "method.name", "method.dim"),
    *("method.full", "method.full_below", "method.budgets"),
    *("method.burn_in", "method.burn_in_dim", "method.learned"),
)

Measure = Literal["ratio", "gain"]


@dataclass(frozen=True)
class Point:
    """One d.

    Attributes:
        d: dimensions.
        metric: mean over seeds; None where training broke down.
        metric_std: over seeds.
        quality: share of the uncompressed quality.
        reached: whether that is the target or more.
        learning_rate: the one that tuning chose.
        bytes: up and down, mean over seeds.
    """

    d: int
    metric: float | None
    metric_std: float | None
    quality: float | None
    reached: bool
    learning_rate: float
    bytes: float | None


@dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
        target: share of the uncompressed quality that was asked for.
        measure: "ratio": metric over uncompressed metric, as Li et al. (2018) define d90 (the inverse, where less is
            better); "gain": improvement over theta_0, over the uncompressed improvement.
        d: the smallest d that reached it; None where none did.
        fails: the largest smaller d that did not; None where none is known.
        uncompressed: metric of uncompressed training.
        initial: metric of theta_0, mean over seeds; None where it is not finite.
        bar: the metric that is the target.
        metric_name: what is measured.
        D: parameters.
        points: by d.
    """

    title: str
    target: float
    measure: Measure
    d: int | None
    fails: int | None
    uncompressed: float
    initial: float | None
    bar: float
    metric_name: str
    D: int
    points: tuple[Point, ...]


def study(
    base: Recipe,
    terms: Terms,
    target: float,
    measure: Measure | None,
    start: int,
    resolution: float,
    folder: Path,
    executor: Executor,
    say: Say,
    found: Callable[[Study], object],
    given: Collection[str] = (),
) -> tuple[Study | None, bool]:
    """Search; what the folder holds already is not run again.

    Args:
        base: the recipe; its method is replaced.
        terms: what every d, and the uncompressed yardstick, gets.
        target: share of the uncompressed quality.
        measure: see `Study`; None: "ratio" where more of the metric is better, else "gain".
        start: the first d.
        resolution: factor within which the answer is wanted.
        folder: the study's.
        executor: trains runs.
        say: told what goes on.
        found: told after every point.
        given: keys of the recipe, dotted, that the user set, for the yardstick as for all, but for codecs: it is
            uncompressed.

    Returns:
        What is known, and whether that is the answer: False where time was up.

    Raises:
        RunError: any d reaches the target, the user set what is searched for, or uncompressed training breaks down or is
            nothing to take a share of.
        IgcError: the recipe does not fit.
    """

    def line_of(name: str) -> Line | None:
        lines, unfinished, failures = compare(base, entrants([name], given), terms, folder, executor, 1, say)
        for error in failures.values():
            raise error
        if unfinished:
            return None
        # The folder may hold the same method after other numbers of rounds, or of bytes.
        asked = name, "rounds", terms.rounds
        return next(line for line in lines if (line["method"], line["budget"], line["rounds"]) == asked)

    _asks_for_something(target, measure)
    _leaves_d_to_the_search(given)
    compressed = any(key.partition(".")[0] == "codec" for key in given)
    yardstick = line_of(_YARDSTICK + (_LOSSLESS if compressed else ""))
    if yardstick is None:
        return None, False
    scale = _Scale.of(yardstick, folder, measure)
    _asks_for_something(target, scale.measure)
    points: dict[int, Point] = {}
    done = False
    while not done:
        d = next_dim({p.d: p.reached for p in points.values()}, start, scale.D, resolution)
        if d is None:
            done = True
        else:
            line = line_of(f"static+method.dim={d}")
            if line is None:
                break
            points[d] = scale.point(d, line, target)
        known = scale.study(base.title, target, list(points.values()))
        write_atomically(folder / JSON, json.dumps(asdict(known), indent=2) + "\n", then=AGAIN)
        found(known)
    return (known if points else None), done


def _asks_for_something(target: float, measure: Measure | None) -> None:
    if target <= 0 and measure == "ratio":
        raise RunError(
            f"a target of {target:g} of the 'ratio' of metrics is reached by whatever is trained; ask for more than 0, or"
            " for a share of the 'gain'"
        )


def _leaves_d_to_the_search(given: Collection[str]) -> None:
    for key in _SEARCHED:
        if key in given:
            raise RunError(
                f"--set {key}: the search says how many dimensions there are, all in one subspace; remove it"
            )


@dataclass(frozen=True)
class _Scale:
    """From metrics to qualities."""

    measure: Measure
    higher_is_better: bool
    initial: float | None
    full: float
    metric_name: str
    D: int

    @classmethod
    def of(cls, line: Line, folder: Path, measure: Measure | None) -> _Scale:
        if line["metric"] is None:
            raise RunError(f"uncompressed training gives nothing to compare with: {line['status']}; set another rate")
        # A seed draws the split and the head, too: each begins elsewhere.
        summaries: list[dict[str, Any]] = [Run.open(folder / run).summary for run in line["runs"]]
        higher = line["higher_is_better"]
        chosen: Measure = measure or ("ratio" if higher else "gain")
        began = [summary["initial_metric"] for summary in summaries]
        initial, full = None if None in began else fmean(began), line["metric"]
        if chosen == "ratio" and full == 0:
            raise RunError(
                f"uncompressed training ends at {line['metric_name']} 0, of which nothing is a share; train for more"
                " rounds, or set another learning rate"
            )
        if chosen == "gain" and initial is None:
            raise RunError(
                f"theta_0 has no finite {line['metric_name']}, from which a gain would be counted; ask for a share of the"
                " 'ratio' (--measure)"
            )
        if chosen == "gain" and initial is not None and (full <= initial if higher else full >= initial):
            raise RunError(
                f"uncompressed training ends at {line['metric_name']} {full:.4g}, where it began at {initial:.4g}: there is"
                " no gain to reach a share of; train for more rounds, or set another learning rate"
            )
        return cls(chosen, higher, initial, full, line["metric_name"], summaries[0]["D"])

    def quality(self, metric: float) -> float:
        """The share of the uncompressed quality that a metric is."""
        if self.measure == "ratio":
            return metric / self.full if self.higher_is_better else self.full / metric
        assert self.initial is not None  # `of` saw to it
        return (metric - self.initial) / (self.full - self.initial)

    def metric(self, quality: float) -> float:
        """The metric of a quality."""
        if self.measure == "ratio":
            return quality * self.full if self.higher_is_better else self.full / quality
        assert self.initial is not None
        return self.initial + quality * (self.full - self.initial)

    def point(self, d: int, line: Line, target: float) -> Point:
        metric = line["metric"]
        quality = None if metric is None else self.quality(metric)
        spent = None if metric is None else line["bytes_up"] + line["bytes_down"]
        well = quality is not None and quality >= target
        return Point(d, metric, line["metric_std"], quality, well, line["learning_rate"], spent)

    def study(self, title: str, target: float, points: Sequence[Point]) -> Study:
        fails, reaches = bracket({point.d: point.reached for point in points})
        ordered = tuple(sorted(points, key=lambda point: point.d))
        return Study(
            title=title,
            target=target,
            measure=self.measure,
            d=reaches,
            fails=fails,
            uncompressed=self.full,
            initial=self.initial,
            bar=self.metric(target),
            metric_name=self.metric_name,
            D=self.D,
            points=ordered,
        )
