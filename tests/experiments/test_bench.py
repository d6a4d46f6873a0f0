"""The benchmarks say what the docs quote; no test depends on how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from igc.cli import app
from igc.experiments.bench import memory
from igc.experiments.bench.peak import added_peak_bytes, in_fresh_process
from igc.experiments.bench.rivals import CountSketch, power_sgd, top_k
from igc.experiments.bench.timing import medians_ms

MEGABYTE = 2**20


def printed(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["bench", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def test_projection_prints_one_object_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    figures = printed(
        "projection", "--params", "100003", "--dim", "300", "--repeats", "1", "--all", "--plot", str(picture)
    )
    assert picture.stat().st_size > 0
    times = {name: value for name, value in figures.items() if name.endswith("_ms")}
    assert set(times) == {
        *("read_ms", "axpy_ms", "project_ms", "expand_ms", "reference_project_ms", "reference_expand_ms"),
        *("topk_ms", "count_sketch_ms", "fastfood_ms", "powersgd_ms"),
    }
    assert all(value > 0 for value in times.values())
    assert figures["block"] == 512
    assert figures["peak_extra_bytes"] >= 0
    assert figures["backend"] and figures["threads"] == torch.get_num_threads()
    assert figures["project_over_read"] == pytest.approx(figures["project_ms"] / figures["read_ms"])
    assert figures["expand_over_axpy"] == pytest.approx(figures["expand_ms"] / figures["axpy_ms"])
    assert list(figures["fwht"]) == [str(2**log) for log in range(10, 17)]


def test_streaming_peaks_below_keeping_every_gradient() -> None:
    params = 8 * 1448**2  # eight layers of 8 MB
    figures = memory.bench(params=params, d=1000)
    assert figures["params"] == params
    assert figures["largest_tensor_bytes"] == 4 * params // 8
    # Seven of eight gradients are not kept; the rest is the slack of an allocator.
    assert figures["streaming_peak_bytes"] < figures["plain_peak_bytes"] - 4 * figures["largest_tensor_bytes"]


def test_an_added_peak_is_what_was_allocated_for_a_moment() -> None:
    added = added_peak_bytes(lambda: torch.ones(16 * MEGABYTE).sum())
    assert 60 * MEGABYTE <= added <= 80 * MEGABYTE


def test_a_failing_process_says_why() -> None:
    with pytest.raises(Exception, match=r"measuring memory failed with exit code 1: TypeError: .*missing"):
        in_fresh_process("igc.experiments.bench.memory", mode="neither")


def test_tasks_take_turns_and_the_first_turn_does_not_count() -> None:
    turns: list[str] = []
    medians = medians_ms({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, repeats=2)
    assert turns == ["a", "b"] * 3
    assert set(medians) == {"a", "b"}


def test_the_count_sketch_is_linear_and_finds_a_lone_coordinate() -> None:
    sketch = CountSketch(rows=5, columns=100)
    g, h = torch.zeros(3000), torch.randn(3000)
    g[1234] = 2.0
    table = sketch.sketch(g)
    assert torch.equal(table.abs().sum(1), torch.full((5,), 2.0))
    torch.testing.assert_close(sketch.sketch(g + h), table + sketch.sketch(h), rtol=1e-4, atol=1e-4)


def test_power_sgd_recovers_a_matrix_of_rank_one() -> None:
    u, v = torch.randn(20), torch.randn(30)
    p, q = power_sgd(torch.outer(u, v).flatten(), torch.randn(30))
    torch.testing.assert_close(torch.outer(p, q), torch.outer(u, v))


def test_top_k_is_by_size() -> None:
    assert set(top_k(torch.tensor([1.0, -5.0, 0.5, 3.0]), 2).tolist()) == {1, 3}


@pytest.mark.data
def test_engine_gives_the_same_metrics_both_ways() -> None:
    figures = printed("engine", "--clients", "3", "--snippets", "2", "--repeats", "1")
    assert figures["sequential_s"] > 0 and figures["fused_s"] > 0
    assert figures["ratio"] == pytest.approx(figures["sequential_s"] / figures["fused_s"])
    assert figures["losses"]["fused"] == pytest.approx(figures["losses"]["sequential"], rel=1e-4)
    assert figures["max_abs_difference"] < 1e-3
