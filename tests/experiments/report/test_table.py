"""The table at the end of a run."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from igc.experiments.report.table import summary_table

SUMMARY: dict[str, Any] = {
    "title": "Movie reviews",
    "method": "static",
    "metric_name": "accuracy",
    "initial_metric": 0.498,
    "final_metric": 0.802,
    "best_metric": 0.806,
    "best_round": 90,
    "D": 22_713_600,
    "d": 16_384,
    "rounds": 100,
    "clients": 240,
    "clients_seen": 239,
    "bytes_up": 26_240_000,
    "bytes_down": 26_250_000,
    "bytes_up_per_client": 109_333.3,
    "bytes_down_per_client": 109_375.0,
    "bytes_per_message_up": 65_600,
    "bytes_per_message_down": 65_625,
    "model_bytes": 90_854_400,
    "factor_vs_model": 1384.7,
    "table": {
        "predicted_up": 26_214_400,
        "predicted_down": 26_214_400,
        "measured_up": 26_240_000,
        "measured_down": 26_250_000,
    },
    "seconds": 171.2,
}


def shown(summary: Mapping[str, Any], paths: Mapping[str, Path] | None = None, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(summary_table(summary, paths))
    return stream.getvalue()


def test_all_that_matters_is_there() -> None:
    text = " ".join(shown(SUMMARY, {"recipe": Path("runs/x/recipe.toml")}).split())
    for part in (
        "Movie reviews, static",
        "accuracy 0.8020, from 0.4980; best 0.8060 in round 90",
        "1,385x fewer than sending the model each time",
        "d = 16,384 of D = 22,713,600 parameters, model of 90.9 MB",
        "100 in 2:51; 239 of 240 clients took part",
        "a message 65.6 kB 65.6 kB",
        "a client, on average 109 kB 109 kB",
        "in total 26.2 MB 26.2 MB",
        "the paper's formula, float32 26.2 MB 26.2 MB measured against it +0.10% +0.14%",
        "recipe runs/x/recipe.toml",
    ):
        assert part in text


def test_no_line_is_wider_than_the_terminal() -> None:
    text = shown(SUMMARY, {"plots": Path("a-very-long-folder-name" * 8)})
    assert max(map(len, text.splitlines())) <= 80


def test_markup_in_a_title_is_text() -> None:
    assert "[red]x[/red]" in shown(SUMMARY | {"title": "[red]x[/red]"})


def test_a_summary_with_gaps_is_shown_with_dashes() -> None:
    assert "-" in shown({"title": "x", "table": {}, "factor_vs_model": None, "seconds": None})
    assert "the paper's formula" in shown({"table": {"predicted_up": 0}})
