"""Runs that are killed, damaged, starved of disk: resumed, they end as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from igc.errors import RunError
from igc.experiments import checkpoint
from igc.experiments.compare.one import Silent
from igc.experiments.progress import RoundRecord
from igc.experiments.recipe import load
from igc.experiments.run import Run
from support.command import igc, start
from support.tiny import write_recipe

# Everything that has memory: clients that miss epochs, dropouts, moments, schedules.
SETTINGS: dict[str, dict[str, Any]] = {
    "method": {"name": "k-subspace-time-varying", "dim": 32, "subspaces": 2, "rounds_per_epoch": 4},
    "optimizer": {"name": "adam", "learning_rate": 0.02, "schedule": "cosine", "warmup_rounds": 2},
    "federation": {"rounds": 14, "clients_per_round": 4, "batch_size": 6, "sampling": "uniform", "client_dropout": 0.2},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("tiny"), **SETTINGS)


@pytest.fixture(scope="module")
def straight(recipe: Path) -> Path:
    """The run that nothing happens to."""
    folder = recipe.parent / "straight"
    finish(start(["train", str(recipe), "--out", str(folder)], recipe.parent))
    return folder


def finish(process: Any) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Records without what may differ: the time that they took."""
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in found]


def assert_equal_runs(a: Path, b: Path) -> None:
    assert lines(a) == lines(b)
    assert lines(a, "ledger.jsonl") == lines(b, "ledger.jsonl")
    warnings: list[str] = []
    left, right = (checkpoint.load_latest(folder / "checkpoints", warnings.append) for folder in (a, b))
    assert warnings == []
    assert left[:2] == right[:2]
    assert left[2].keys() == right[2].keys()
    assert all(torch.equal(left[2][name], right[2][name]) for name in left[2])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (a, b)]
    for summary in summaries:
        summary.pop("seconds")
    assert summaries[0] == summaries[1]


def kill_after(process: Any, metrics: Path, rounds: int, pause: float) -> None:
    """SIGKILL once so many lines are written, and a little later, wherever that is."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= rounds:
            time.sleep(pause)
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_run_killed_again_and_again_ends_the_same_bit_for_bit(recipe: Path, straight: Path) -> None:
    folder = recipe.parent / "killed"
    draw = random.Random(1)
    command = ["train", str(recipe), "--out", str(folder)]
    for after in (2, 6, 11):
        kill_after(start(command, recipe.parent), folder / "metrics.jsonl", after, draw.uniform(0, 0.2))
        assert not (folder / "summary.json").exists()
        command = ["resume", str(folder)]
    finish(start(command, recipe.parent))
    assert_equal_runs(folder, straight)


def test_ctrl_c_saves_the_last_complete_round_and_the_run_goes_on_the_same(recipe: Path, straight: Path) -> None:
    folder = recipe.parent / "interrupted"
    process = start(["train", str(recipe), "--out", str(folder), "--set", "checkpoint.every=100"], recipe.parent)
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 5):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors.decode()
    assert "igc resume" in errors.decode()
    saved = checkpoint.load_latest(folder / "checkpoints", pytest.fail)[0]
    assert 3 <= saved == lines(folder)[-1]["round"]
    finish(start(["resume", str(folder)], recipe.parent))
    assert lines(folder) == lines(straight)
    assert lines(folder, "ledger.jsonl") == lines(straight, "ledger.jsonl")


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_folder_that_is_taken_away_ends_the_run_at_once(interrupted: bool, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    class Thief(Silent):
        def round(self, record: RoundRecord) -> None:
            rounds.append(record.round)
            if record.round == 2:
                shutil.move(folder, tmp_path / "elsewhere")
                if interrupted:
                    raise KeyboardInterrupt

    rounds: list[int] = []
    with pytest.raises(RunError, match=r"recipe.toml cannot be seen any more .*: was the folder taken away"):
        Run.create(load(recipe), folder).train(Thief())
    assert rounds == [0, 1, 2]
    assert not folder.exists()


def copy_until(straight: Path, target: Path, rounds: int) -> Path:
    """A run as it would be had it been killed after so many rounds, with all checkpoints up to then."""
    (target / "checkpoints").mkdir(parents=True)
    (target / "recipe.toml").write_bytes((straight / "recipe.toml").read_bytes())
    for name in ("metrics.jsonl", "ledger.jsonl"):
        kept = [line for line in (straight / name).read_text().splitlines() if json.loads(line)["round"] <= rounds]
        (target / name).write_text("\n".join(kept) + "\n")
    for path in (straight / "checkpoints").iterdir():
        if int(path.stem.removeprefix("round-")) <= rounds:
            (target / "checkpoints" / path.name).write_bytes(path.read_bytes())
    return target


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_until(straight, tmp_path / "run", 12)
    newest = max((folder / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    outcome = igc(["resume", str(folder)], capsys, monkeypatch)
    assert outcome.code == 0
    assert f"{newest.name} is damaged" in outcome.err
    assert "goes on after round 9" in outcome.err
    assert_equal_runs(folder, straight)


def test_when_every_checkpoint_is_damaged_it_says_so_and_touches_nothing(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_until(straight, tmp_path / "run", 12)
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    before = (folder / "metrics.jsonl").read_bytes()
    outcome = igc(["resume", str(folder)], capsys, monkeypatch)
    assert outcome.code == 2
    assert "no checkpoint in" in outcome.err
    assert "can be used" in outcome.err
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_ends_in_one_line_and_loses_nothing(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses to let any file grow as large as a checkpoint, as a full disk does (EFBIG, like ENOSPC)."""
    folder = copy_until(straight, tmp_path / "run", 9)
    room = 5000  # enough for the logs, too little for a checkpoint
    assert all(path.stat().st_size > room for path in (folder / "checkpoints").iterdir())
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    limits = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
    process = start(["resume", str(folder)], tmp_path, limits)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    last = errors.decode().strip().splitlines()[-1]
    assert "the disk is full" in last
    assert "igc resume" in last
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before
    assert igc(["resume", str(folder)], capsys, monkeypatch).code == 0
    assert_equal_runs(folder, straight)


def test_a_recipe_edited_after_the_fact_is_not_mixed_with_old_checkpoints(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_until(straight, tmp_path / "run", 9)
    text = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(text.replace("dim = 32", "dim = 16"))
    outcome = igc(["resume", str(folder)], capsys, monkeypatch)
    assert outcome.code == 2
    assert "made by another recipe" in outcome.err


@pytest.mark.parametrize("name", ["metrics.jsonl", "ledger.jsonl"])
def test_a_log_that_lost_rounds_is_named(
    name: str, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_until(straight, tmp_path / "run", 14)
    (folder / name).unlink()
    outcome = igc(["resume", str(folder)], capsys, monkeypatch)
    assert outcome.code == 2
    assert f"{name}" in outcome.err


def test_a_run_killed_before_its_summary_is_summarised_on_resume(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_until(straight, tmp_path / "run", 14)
    assert igc(["resume", str(folder)], capsys, monkeypatch).code == 0
    assert_equal_runs(folder, straight)


def test_resuming_a_finished_run_shows_its_summary_and_changes_nothing(
    straight: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()}
    outcome = igc(["resume", str(straight)], capsys, monkeypatch)
    assert outcome.code == 0
    assert "finished" in outcome.out
    assert {path: path.read_bytes() for path in straight.rglob("*") if path.is_file()} == before
