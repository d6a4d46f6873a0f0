"""The summary of a run that did not end well."""

from __future__ import annotations

from pathlib import Path

import pytest

from igc.experiments.assemble import assemble
from igc.experiments.recipe import load
from igc.experiments.summary import summarise
from support.tiny import write_recipe


def record(round: int, metric: float | None) -> dict[str, object]:
    return {"round": round, "seconds": 1.0, "metric": metric, "metrics": {"test": {"accuracy": metric}}}


@pytest.mark.parametrize(("best", "values"), [(0.6, [0.5, 0.6, None]), (None, [None, None])])
def test_a_metric_that_is_not_finite_is_none_and_never_the_best(
    best: float | None, values: list[float | None], tmp_path: Path
) -> None:
    experiment = assemble(load(write_recipe(tmp_path)))
    summary = summarise(experiment, [record(number, value) for number, value in enumerate(values)])
    assert summary["initial_metric"] == values[0]
    assert summary["final_metric"] is None
    assert summary["best_metric"] == best
