"""Plots: two figures in two formats, of any run, that show what they claim to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from matplotlib.figure import Figure

from igc.errors import RunError
from igc.experiments import plots
from igc.experiments.metrics import of_split
from igc.experiments.plots import write_plots

SUMMARY = {
    "title": "Movie reviews",
    "method": "static",
    "d": 16_384,
    "D": 22_713_600,
    "split": "test",
    "metric_name": "accuracy",
    "model_bytes": 90_854_400,
}
NAMES = ["metric-vs-bytes.png", "metric-vs-bytes.svg", "metric-vs-rounds.png", "metric-vs-rounds.svg"]

Records = list[dict[str, Any]]


def run(rounds: int, every: int = 10, message: int = 65_600, splits: tuple[str, ...] = ("test",)) -> Records:
    records: Records = []
    for number in range(rounds + 1):
        line: dict[str, Any] = {
            "round": number,
            "loss": None if number == 0 else 0.7 - 0.2 * number / rounds,
            "total_up": 4 * message * number,
            "total_down": 4 * message * number,
        }
        if number % every == 0:
            value = 0.5 + 0.3 * number / max(rounds, 1)
            line |= {"metric": value, "metric_name": "accuracy", "metrics": {s: {"accuracy": value} for s in splits}}
        records.append(line)
    return records


def with_metric(records: Records, values: list[float | None]) -> Records:
    for record, value in zip([record for record in records if "metric" in record], values, strict=True):
        record["metric"] = value
        record["metrics"] = {split: {"accuracy": value} for split in record["metrics"]}
    return records


CASES: dict[str, tuple[Records, dict[str, Any]]] = {
    "ordinary": (run(100), {}),
    "nothing yet": ([], {}),
    "only the start": (run(0), {}),
    "one round": (run(1, every=1), {}),
    "never evaluated": ([{k: v for k, v in r.items() if "metric" not in k} for r in run(5)], {}),
    "long": (run(3000), {}),
    "uncompressed": (run(100, message=90_854_400), {"d": 22_713_600}),
    "perplexity over decades": (with_metric(run(40), [9000.0, 700.0, 90.0, 30.0, 25.0]), {"metric_name": "accuracy"}),
    "not finite": (with_metric(run(40), [0.5, None, 0.7, None, None]), {}),
    "constant": (with_metric(run(40), [0.5] * 5), {}),
    "many splits": (run(40, splits=("held-out-roles", "held-out-lines", "validation", "test")), {}),
    "odd title": (run(10), {"title": r"$\frac{ 電影 & <b>"}),
}


@pytest.mark.parametrize("case", CASES)
def test_any_run_can_be_drawn(tmp_path: Path, case: str) -> None:
    records, changes = CASES[case]
    paths = write_plots(tmp_path / "plots", records, SUMMARY | changes)
    assert sorted(path.name for path in paths) == NAMES
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == NAMES
    for path in paths:
        if path.suffix == ".svg":
            assert Xml.fromstring(path.read_text(encoding="utf-8")).tag.endswith("svg")
        else:
            assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_a_headline_is_the_recipes_whatever_was_first_before(tmp_path: Path) -> None:
    """A run that went on with other splits: rounds before are of others, and so is what it began with."""
    before, after = run(10, every=5), run(20, every=5, splits=("validation", "test"))[11:]
    for record in before:
        if "metrics" in record:
            record["metrics"] = {"test": {"accuracy": 0.1}}
            record["metric"] = 0.1
    write_plots(tmp_path, [*before, *after], SUMMARY | {"split": "validation"})
    text = (tmp_path / "metric-vs-bytes.svg").read_text(encoding="utf-8")
    assert "before training" not in text
    found = of_split(before[0], "validation")
    assert (found["metric"], of_split(before[0], "test")["metric"]) == (None, 0.1)
    (axes, *_) = plots._against_rounds(
        [of_split(record, "validation") for record in (*before, *after)], SUMMARY | {"split": "validation"}
    ).axes
    bold = max(axes.lines, key=lambda line: line.get_linewidth())
    assert (bold.get_label(), numbers(bold.get_xdata())) == ("validation", [15, 20])


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    first = write_plots(tmp_path / "a", run(20), SUMMARY)
    second = write_plots(tmp_path / "b", run(20), SUMMARY)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def numbers(data: Any) -> list[float]:
    return [float(number) for number in data]


def by_round(record: dict[str, Any]) -> float:
    return float(record["round"])


def by_bytes(record: dict[str, Any]) -> float:
    return float(record["total_up"] + record["total_down"])


@pytest.mark.parametrize(("draw", "x"), [(plots._against_rounds, by_round), (plots._against_bytes, by_bytes)])
def test_what_is_drawn_is_what_was_measured(draw: Callable[..., Figure], x: Callable[[dict[str, Any]], float]) -> None:
    records = run(100)
    axes, behind = draw(records, SUMMARY).axes
    lines = {line.get_label(): line for line in (*axes.lines, *behind.lines)}
    evaluated = [record for record in records if "metric" in record]
    assert numbers(lines["test"].get_xdata()) == [x(record) for record in evaluated]
    assert numbers(lines["test"].get_ydata()) == [record["metric"] for record in evaluated]
    assert numbers(lines["training loss"].get_xdata()) == [x(record) for record in records[1:]]
    assert numbers(lines["training loss"].get_ydata()) == pytest.approx([record["loss"] for record in records[1:]])
    assert [text.get_text() for text in axes.texts] == ["0.8000"]


def test_the_cost_of_sending_the_model_once_is_drawn() -> None:
    axes, _ = plots._against_bytes(run(100), SUMMARY).axes
    (line,) = (line for line in axes.lines if line.get_label() == "sending the model once (90.9 MB)")
    assert numbers(line.get_xdata()) == [SUMMARY["model_bytes"]] * 2


def test_bytes_are_on_a_logarithmic_axis_where_they_span_decades() -> None:
    near, *_ = plots._against_bytes(run(100), SUMMARY).axes
    far, *_ = plots._against_bytes(run(100, message=1_024), SUMMARY).axes
    assert (near.get_xscale(), far.get_xscale()) == ("linear", "log")
    assert "before training" in far.get_legend_handles_labels()[1]  # zero has no place on that axis


def test_a_long_loss_is_averaged_not_thinned() -> None:
    axes = plots._against_rounds(run(2999), SUMMARY).axes
    (loss,) = axes[1].lines
    heights = numbers(loss.get_ydata())
    assert 100 < len(heights) <= 300
    assert all(left > right for left, right in pairwise(heights))


def test_pyplot_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # its import fails from here on
    write_plots(tmp_path, run(10), SUMMARY)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "plots").touch()
    with pytest.raises(RunError, match=r"cannot write .*metric-vs-rounds\.png"):
        write_plots(tmp_path / "plots", run(1), SUMMARY)
