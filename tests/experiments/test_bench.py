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
from igc.experiments.bench import projection as measured
from igc.experiments.bench.peak import added_peak_bytes, in_fresh_process
from igc.experiments.bench.rivals import HashedSketch, power_sgd, top_k
from igc.experiments.bench.timing import medians_ms
from support.command import igc

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
        *("read_ms", "copy_ms", "axpy_ms", "project_ms", "expand_ms", "reference_project_ms", "reference_expand_ms"),
        *("topk_ms", "count_sketch_ms", "count_sketch_shifted_ms", "fastfood_ms", "fastfood_blocked_ms", "powersgd_ms"),
        *("partition_project_ms", "partition_expand_ms"),
    }
    assert all(value > 0 for value in times.values())
    assert figures["block"] == 512
    assert figures["peak_extra_bytes"] >= 0
    assert figures["backend"] and figures["threads"] == torch.get_num_threads()
    assert figures["project_over_read"] == pytest.approx(figures["project_ms"] / figures["read_ms"])
    assert figures["expand_over_axpy"] == pytest.approx(figures["expand_ms"] / figures["axpy_ms"])
    assert figures["copy_gbs"] == pytest.approx(2 * 4 * 100_003 / figures["copy_ms"] / 1e6)
    assert figures["project_gbs"] == pytest.approx(4 * 100_003 / figures["project_ms"] / 1e6)
    assert figures["expand_gbs"] == pytest.approx(2 * 4 * 100_003 / figures["expand_ms"] / 1e6)
    assert figures["project_of_copy"] == pytest.approx(figures["copy_ms"] / figures["project_ms"] / 2)
    assert figures["expand_of_copy"] == pytest.approx(figures["copy_ms"] / figures["expand_ms"])
    assert figures["device"] == "cpu" and figures["dtype"] == "float32"
    assert list(figures["fwht"]) == [str(2**log) for log in range(10, 17)]


def test_halves_are_two_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "FWHT_LOGS", ())
    figures = measured.bench(10_007, 300, repeats=1, dtype=torch.bfloat16)
    assert figures["dtype"] == "bfloat16"
    assert figures["copy_gbs"] == pytest.approx(2 * 2 * 10_007 / figures["copy_ms"] / 1e6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = igc(["bench", "projection", "--params", "1000", "--dim", "10", "--device", "cuda"], capsys, monkeypatch)
    assert done.code == 2
    assert "device 'cuda' is not there (0 CUDA devices found); use --device cpu" in done.err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_projection_on_a_gpu() -> None:
    figures = printed(
        "projection", "--params", "10000019", "--dim", "16384", "--repeats", "2", "--all", "--device", "cuda"
    )
    assert figures["device"] == "cuda" and figures["backend"] == "triton"
    assert figures["gpu"] == torch.cuda.get_device_name()
    assert all(value > 0 for name, value in figures.items() if name.endswith(("_ms", "_gbs", "_of_copy")))
    assert figures["peak_extra_bytes"] > 0


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


def test_a_median_is_of_what_the_clock_says() -> None:
    said = iter([9.0, 3.0, 1.0, 2.0])
    assert medians_ms({"a": lambda: None}, 3, clock=lambda task: next(said)) == {"a": 2.0}


def test_the_count_sketch_is_linear_and_finds_a_lone_coordinate() -> None:
    sketch = HashedSketch(rows=5, columns=100)
    g, h = torch.zeros(3000), torch.randn(3000)
    g[1234] = 2.0
    table = sketch.sketch(g)
    assert torch.equal(table.abs().sum(1), torch.full((5,), 2.0))
    torch.testing.assert_close(sketch.sketch(g + h), table + sketch.sketch(h), rtol=1e-4, atol=1e-4)


def test_power_sgd_recovers_a_matrix_of_rank_one() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v, start = (torch.randn(n, generator=generator) for n in (20, 30, 30))
    p, q = power_sgd(torch.outer(u, v).flatten(), start)
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


def test_a_picture_of_no_known_kind_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> None:
        pytest.fail("measured")

    monkeypatch.setattr(measured, "bench", measure)
    for name in ("figures.bmp", "figures"):
        done = igc(["bench", "projection", "--plot", str(tmp_path / name)], capsys, monkeypatch)
        assert done.code == 2
        assert "ends in none of .svg, .png, .pdf" in done.err


def test_figures_outlive_a_picture_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    figures = {"params": 1000, "dim": 10, "dtype": "float32", "threads": 1, "read_ms": 0.5, "project_ms": 2.0}
    monkeypatch.setattr(measured, "bench", lambda *_: figures)
    arguments = ["bench", "projection", "--json", "--plot"]
    done = igc([*arguments, str(tmp_path / "file" / "figures.svg")], capsys, monkeypatch)
    assert (done.code, json.loads(done.out)) == (2, figures)
    assert len(done.err.splitlines()) == 1
    assert "figures.svg: " in done.err and "--plot" in done.err
    for kind, begins in (("svg", b"<?xml"), ("PNG", b"\x89PNG"), ("pdf", b"%PDF")):
        picture = tmp_path / "new" / f"figures.{kind}"
        assert igc([*arguments, str(picture)], capsys, monkeypatch).code == 0
        assert picture.read_bytes().startswith(begins)


def test_more_parameters_than_memory_holds_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = igc(["bench", "projection", "--params", "100000000000000"], capsys, monkeypatch)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "400000000000000 bytes were asked for at once; lower --params or --dim" in done.err


def test_more_dimensions_than_parameters_are_refused_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("memory", "projection"):
        done = igc(["bench", command, "--params", "968", "--dim", "5000"], capsys, monkeypatch)
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "igc: error: d = 5,000 exceeds D = 968, the number of trainable parameters" in done.err
