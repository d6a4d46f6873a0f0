"""The table at the end of a run: what was reached, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from igc.experiments.format import format_bytes, format_duration, format_factor, format_metric


def summary_table(summary: Mapping[str, Any], paths: Mapping[str, Path] | None = None) -> RenderableType:
    """What `summary.json` holds, for a person.

    Args:
        summary: as read from ``summary.json``; what it lacks is left out or shown as ``-``.
        paths: what was written: a word for it -> where.
    """
    parts: list[RenderableType] = [Text(), _outcome(summary), Text(), _bytes(summary)]
    if paths:
        parts += [Text(), _written(paths)]
    return Group(*parts)


def _outcome(summary: Mapping[str, Any]) -> Table:
    """The headline: metric, factor, sizes, time."""
    reached = f"{format_metric(summary.get('final_metric'))}"
    if summary.get("initial_metric") is not None:
        reached += f", from {format_metric(summary['initial_metric'])}"
    if summary.get("best_metric") is not None:
        reached += f"; best {format_metric(summary['best_metric'])} in round {summary.get('best_round', '-')}"
    seen = f"{_count(summary.get('clients_seen'))} of {_count(summary.get('clients'))} clients took part"
    dimensions = f"d = {_count(summary.get('d'))} of D = {_count(summary.get('D'))} parameters"
    sizes = f"{dimensions}, model of {_size(summary, 'model_bytes')}"
    took = format_duration(summary["seconds"]) if summary.get("seconds") is not None else "-"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", Text(f"{summary.get('title', '-')}, {summary.get('method', '-')}", style="bold"))
    table.add_row(str(summary.get("metric_name", "metric")), Text(reached, style="bold"))
    if summary.get("factor_vs_model") is not None:
        fewer = f"{format_factor(summary['factor_vs_model'])} fewer than sending the model each time"
        table.add_row("bytes", Text(fewer, style="bold"))
    if summary.get("epsilon") is not None:
        spent = (
            f"epsilon = {summary['epsilon']:.4g} at delta = {summary.get('delta', '-')}, {summary.get('noise')} noise"
        )
        table.add_row("privacy", Text(spent, style="bold"))
    table.add_row("subspace", sizes)
    table.add_row("rounds", f"{_count(summary.get('rounds'))} in {took}; {seen}")
    return table


def _bytes(summary: Mapping[str, Any]) -> Table:
    """Measured bytes up and down, next to what METHOD.md's table of costs says."""
    table = Table(title=None, box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("bytes, as serialised", style="dim", no_wrap=True)
    for way in ("up", "down"):
        table.add_column(way, justify="right", no_wrap=True)
    for label, key in (
        ("a message", "bytes_per_message"),
        ("a client, on average", "bytes_{way}_per_client"),
        ("in total", "bytes"),
    ):
        keys = [key.format(way=way) if "{way}" in key else f"{key}_{way}" for way in ("up", "down")]
        table.add_row(label, *(_size(summary, key) for key in keys))
    if costs := summary.get("table"):
        table.add_row("the paper's formula, float32", *(_size(costs, f"predicted_{way}") for way in ("up", "down")))
        table.add_row("measured against it", *(_excess(costs, way) for way in ("up", "down")))
    return table


def _written(paths: Mapping[str, Path]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for what, path in paths.items():
        table.add_row(Text(what), Text(str(path)))
    return table


def _excess(costs: Mapping[str, Any], way: str) -> str:
    """By how much the measurement exceeds the table, which counts numbers and no headers."""
    predicted, measured = costs.get(f"predicted_{way}"), costs.get(f"measured_{way}")
    return f"{measured / predicted - 1:+.2%}" if predicted and measured is not None else "-"


def _size(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return "-" if value is None else format_bytes(value)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
