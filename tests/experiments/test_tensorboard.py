"""Event files: read back by TensorBoard's own reader, they say what the run's log says."""

from __future__ import annotations

import builtins
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from igc.experiments import metrics
from igc.experiments.compare.one import Silent
from igc.experiments.recipe import load
from igc.experiments.run import Run
from igc.experiments.tensorboard import TensorBoardObserver
from support.command import igc
from support.tiny import write_recipe


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
    found = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    for tag, points in found.items():
        assert len({event.step for event in points}) == len(points), f"a step of {tag} comes twice"
    return {tag: {event.step: event.value for event in points} for tag, points in found.items()}


def test_event_files_say_what_the_log_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    recipe = write_recipe(tmp_path / "tiny", federation={"rounds": 4}, evaluation={"every": 2})
    outcome = igc(["train", str(recipe), "--out", str(tmp_path / "run"), "--tensorboard"], capsys, monkeypatch)
    assert outcome.code == 0
    found = scalars(tmp_path / "run" / "tensorboard")
    records = metrics.read(tmp_path / "run" / "metrics.jsonl")
    expected: dict[str, dict[int, float]] = {}
    for record in records:
        named = {"bytes/up": record["total_up"], "bytes/down": record["total_down"], "seconds/round": record["seconds"]}
        if record["loss"] is not None:
            named["loss/train"] = record["loss"]
        for split, values in record.get("metrics", {}).items():
            named |= {f"{name}/{split}": value for name, value in values.items()}
        for tag, value in named.items():
            expected.setdefault(tag, {})[record["round"]] = value
    assert set(found) == set(expected)
    for tag, points in expected.items():
        assert found[tag] == pytest.approx(points, rel=1e-5, abs=1e-5), tag
    assert len(expected["accuracy/test"]) == 3


def test_rounds_before_the_first_checkpoint_come_once(tmp_path: Path) -> None:
    """A run that was killed before it goes on from round 0, whose events of rounds since then are hidden."""
    pytest.importorskip("tensorboard")
    recipe = load(write_recipe(tmp_path / "tiny", federation={"rounds": 4}, checkpoint={"every": 4}))
    run = Run.create(recipe, tmp_path / "run")
    run.train(TensorBoardObserver(Silent()))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = metrics.read(tmp_path / "run" / "metrics.jsonl")
    Run.open(tmp_path / "run").train(TensorBoardObserver(Silent()))
    found = scalars(tmp_path / "run" / "tensorboard")
    assert list(found["bytes/up"]) == [record["round"] for record in before]


def test_without_the_package_the_error_names_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *arguments, **named)

    recipe = write_recipe(tmp_path / "tiny")
    monkeypatch.setattr(builtins, "__import__", without)
    outcome = igc(["train", str(recipe), "--out", str(tmp_path / "run"), "--tensorboard"], capsys, monkeypatch)
    assert outcome.code == 2
    assert "pip install 'intrinsic-gradient-compression[tensorboard]'" in outcome.err
    assert not (tmp_path / "run").exists()
