"""The sentences of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from igc.experiments.format import format_bytes, format_metric, shortened
from igc.experiments.report.look import UNCOMPRESSED
from igc.experiments.report.plots import frontier
from igc.experiments.report.read import Entry, Group

_CLOSE = 0.05  # of the way from untrained to uncompressed: what a headline calls close
_NAME_WIDTH = 60  # letters of a name in a sentence
_ABOUT_ONE = 1.5  # a factor below which nothing was saved worth speaking of


def headline(group: Group) -> str:
    """What came out, in a sentence."""
    name = group.metric_name
    done = [entry for entry in group.entries if entry.done and entry.metric is not None]
    if not done:
        running = next((entry for entry in group.entries if entry.metric is not None), None)
        if running is None:
            return f"{_called(group.entries[0])}: {group.entries[0].status}"
        return _so_far(running, name)
    if len(done) == 1:
        return _alone(done[0], name)
    whole = _uncompressed(done)
    if whole is None:
        return _no_reference(group, done)
    cheaper = [entry for entry in done if not _sends_all(entry) and entry.total < whole.total]
    if not cheaper:
        return _no_reference(group, done)
    near = [entry for entry in cheaper if _close(entry, whole)]
    cheapest = min(near, key=lambda entry: entry.total) if near else cheaper[0]  # the best, where none is close
    return (
        f"{_called(cheapest)} reaches {name} {format_metric(cheapest.metric)} with {format_bytes(cheapest.total)};"
        f" uncompressed training reaches {format_metric(whole.metric)} with {_times(whole.total / cheapest.total)} as"
        " many bytes"
    )


def _so_far(entry: Entry, name: str) -> str:
    """What an unfinished entry had reached when it was last evaluated, and for how many bytes by then."""
    last = [run.evaluated[-1] for run in entry.runs if run.evaluated]
    round, most = max(record["round"] for record in last), entry.runs[0].rounds
    total = fmean(record["total_up"] + record["total_down"] for record in last)
    was = f", from {format_metric(entry.initial)}" if entry.initial is not None and round else ""
    return (
        f"{_called(entry)} so far: {name} {format_metric(entry.metric)}{was}, after {round:,} of {most:,} rounds, for"
        f" {format_bytes(total)}"
    )


def _alone(entry: Entry, name: str) -> str:
    was = f"{name} {format_metric(entry.initial)} → " if entry.initial is not None else f"{name} "
    fewer = "" if entry.factor is None else f", {_times(entry.factor)} fewer than sending the model each time"
    if entry.factor is not None and entry.factor < _ABOUT_ONE:
        fewer = ", sending the model each time"
    return f"{_called(entry)}: {was}{format_metric(entry.metric)} for {format_bytes(entry.total)}{fewer}"


def _no_reference(group: Group, done: Sequence[Entry]) -> str:
    best, *others = frontier(done, higher_is_better=group.higher_is_better)[::-1]
    text = f"{_called(best)} does best: {group.metric_name} {format_metric(best.metric)} for {format_bytes(best.total)}"
    if not others:
        return f"{text}, and nothing is cheaper" if len(done) > 1 else text
    cheap = others[-1]
    return f"{text}; the cheapest, {_called(cheap)}, has {format_metric(cheap.metric)} for {format_bytes(cheap.total)}"


def _called(entry: Entry) -> str:
    return shortened(entry.name, _NAME_WIDTH)


def caveats(group: Group) -> list[str]:
    """What to bear in mind before believing small differences."""
    found = []
    done = [entry for entry in group.entries if entry.done and entry.metric is not None]
    seeds = {len(entry.runs) for entry in done}
    if seeds == {1}:
        found.append("One seed each: another seed would move every point.")
    elif seeds:
        few, many = min(seeds), max(seeds)
        count = f"{few}" if few == many else f"{few} to {many}"
        found.append(f"Means over {count} seeds; ± and bands are one standard deviation.")
    if error := _standard_error(group):
        examples, share = error
        found.append(
            f"Accuracy on {examples:,} examples at most has a standard error of {100 * share:.1f} points or more:"
            " differences below two of these say little."
        )
    running = sum(entry.going for entry in group.entries)
    if running:
        verb = "is" if running == 1 else "are"
        found.append(
            f"{running} of {len(group.entries)} {verb} not finished: dashed curves, open marks, not in the headline."
        )
    return found


def _standard_error(group: Group) -> tuple[int, float] | None:
    entry = next((entry for entry in group.entries if entry.metric is not None and entry.runs), None)
    if group.metric_name != "accuracy" or entry is None or entry.metric is None:
        return None
    examples = entry.runs[0].setting("evaluation.max_examples")
    share = entry.metric
    return (examples, math.sqrt(share * (1 - share) / examples)) if examples and 0 < share < 1 else None


def _uncompressed(done: Sequence[Entry]) -> Entry | None:
    """The entry that sends the model as it is, and gets furthest with it."""
    return next((entry for entry in done if _sends_all(entry)), None)


def _sends_all(entry: Entry) -> bool:
    return entry.method in UNCOMPRESSED and entry.factor is not None and entry.factor < _ABOUT_ONE


def _close(entry: Entry, whole: Entry) -> bool:
    """Nearly as far from the untrained model as uncompressed training, or further."""
    assert entry.metric is not None and whole.metric is not None
    start = whole.initial if whole.initial is not None else entry.initial
    if start is None:
        return math.isclose(entry.metric, whole.metric, rel_tol=_CLOSE)
    way = whole.metric - start
    return way != 0 and (entry.metric - start) / way >= 1 - _CLOSE


def _times(factor: float) -> str:
    return f"{factor:,.0f} times" if factor >= 10 else f"{factor:.1f} times"
