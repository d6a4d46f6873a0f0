"""`igc federation status`, of a federation as it writes its logs, and of a run in one process."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from igc.cli import app
from igc.deployment.events import EVENTS, EventLog, EventObserver, read_events, this_process
from igc.deployment.status import read_status, show
from igc.errors import RunError
from igc.experiments import metrics
from igc.experiments.metrics import METRICS, JsonLines
from igc.experiments.progress import RoundRecord
from igc.experiments.recipe import load
from igc.experiments.run import Run
from support.tiny import write_recipe


class Quiet:
    """An observer that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipe = load(write_recipe(tmp_path, federation={"rounds": 3, "clients_per_round": 2, "batch_size": 2}))
    folder = tmp_path / "run"
    Run.create(recipe, folder).train(Quiet())
    return folder


def text(folder: Path) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(show(read_status(folder), datetime.now(UTC) + timedelta(seconds=90)))
    return console.export_text()


def test_a_finished_run_in_one_process(folder: Path) -> None:
    status = read_status(folder)
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    assert (status.state, status.done, status.rounds, status.nodes) == ("finished", 3, 3, {})
    assert (status.total_up, status.total_down) == (lines[-1]["total_up"], lines[-1]["total_down"])
    assert status.metric == (summary["final_metric"], 3)
    assert "finished" in text(folder)


def test_nodes_come_and_go_and_trouble_is_shown(folder: Path) -> None:
    (folder / "summary.json").unlink()
    log = EventLog(stream=None)
    log.write_to(folder)
    log.tell("start", title="Tiny")
    log.tell("node-joined", node=17, clients=3, igc="1")
    log.tell("node-joined", node=18, clients=2, igc="1")
    log.tell("round", round=1)
    log.tell("late", round=2, node=18, clients=["a", "b", "c", "d"])
    log.tell("node-left", node=18)
    status = read_status(folder)
    assert (status.state, status.nodes) == ("training", {"17": 3})
    assert [event["event"] for event in status.trouble] == ["late", "node-left"]
    shown = text(folder)
    assert "1, with 3 clients" in shown
    assert "clients a, b, c and 1 more" in shown
    assert "last heard of 1:" in shown
    log.tell("failed", error="none of its 2 clients came")
    assert read_status(folder).state == "failed: none of its 2 clients came"


def log_of(folder: Path, **server: Any) -> EventLog:
    """The log of a server that begins."""
    log = EventLog(stream=None)
    log.write_to(folder)
    log.tell("server", **(server or this_process()))
    return log


def test_nodes_of_a_server_before_are_not_there(folder: Path) -> None:
    log_of(folder).tell("node-joined", node=17, clients=3)
    log = log_of(folder)
    assert (read_status(folder).nodes, read_status(folder).state) == ({}, "waiting for clients")
    log.tell("node-joined", node=18, clients=2)
    assert read_status(folder).nodes == {"18": 2}


def test_a_run_that_was_extended_trains_although_it_was_finished(folder: Path) -> None:
    log = log_of(folder)
    log.tell("finished")
    assert read_status(folder).state == "finished"
    longer = read_status(folder).rounds + 2
    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(recipe.replace("rounds = 3", f"rounds = {longer}"))
    log = log_of(folder)
    log.tell("start")
    status = read_status(folder)
    assert (status.state, status.done, status.rounds) == ("training", 3, longer)
    (folder / EVENTS).unlink()  # as of a run in one process
    assert read_status(folder).state == "finished"
    with JsonLines(folder / METRICS) as lines:
        lines.append({**metrics.read(folder / METRICS)[-1], "round": 4})
    assert read_status(folder).state == f"4 of {longer} rounds done"


def test_a_server_that_was_killed_has_stopped(folder: Path) -> None:
    (folder / "summary.json").unlink()
    code = (
        "import json, sys; from igc.deployment.events import this_process; print(json.dumps(this_process())); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = json.loads(process.stdout.readline())
        log_of(folder, **server).tell("start")
        assert read_status(folder).state == "training"
        process.kill()
    assert read_status(folder).state == "stopped: the server's process is gone"
    log_of(folder, **{**server, "host": "elsewhere"}).tell("start")
    assert read_status(folder).state == "training"  # as far as can be known from here
    log_of(folder, **{**this_process(), "born": "long ago"}).tell("start")
    assert read_status(folder).state.startswith("stopped")  # another process has its number now
    log_of(folder).tell("stopped", reason="KeyboardInterrupt")
    assert read_status(folder).state == "stopped: KeyboardInterrupt"


def test_a_run_that_could_not_begin_says_why(folder: Path, tmp_path: Path) -> None:
    """It has taken its recipe back; the events stay."""
    log, left = EventLog(stream=None), tmp_path / "left"
    left.mkdir()
    log.write_to(left)
    log.tell("server", title="Tiny", rounds=3, **this_process())
    log.tell("failed", error="0 of 12 clients came within 600 s")
    status = read_status(left)
    assert (status.title, status.rounds, status.state) == ("Tiny", 3, "failed: 0 of 12 clients came within 600 s")


def test_a_run_that_failed_and_was_finished_in_one_process_is_finished(folder: Path) -> None:
    log = log_of(folder)
    log.tell("failed", error="ConnectionError")
    assert read_status(folder).state == "finished"
    (folder / "summary.json").unlink()
    assert read_status(folder).state == "failed: ConnectionError"


def test_what_privacy_has_cost_is_shown(folder: Path) -> None:
    spent = RoundRecord(
        round=3, rounds=3, loss=None, bytes_up=1, bytes_down=1, total_up=1, total_down=1, total_messages=1, seconds=1.0,
        clients=2, metric_name="accuracy", metric=None, metrics={}, epsilon=1.2345,
    )  # fmt: skip
    with JsonLines(folder / METRICS) as lines:
        lines.append(spent.to_json())
    EventObserver(log_of(folder).tell).round(spent)
    assert read_status(folder).epsilon == 1.2345
    assert "epsilon           1.23" in text(folder)
    assert (
        json.loads(CliRunner().invoke(app, ["federation", "status", str(folder), "--json"]).output)["epsilon"] == 1.2345
    )


def test_rejections_add_up_over_rounds(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    for line in lines[1:]:
        line |= {"rejected": 2, "dropped": 1}
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = read_status(folder)
    assert (status.rejected, status.dropped) == (6, 3)


def test_a_server_that_begins_again_mends_the_line_that_a_kill_cut_short(folder: Path) -> None:
    log_of(folder).tell("start")
    with (folder / EVENTS).open("a") as file:
        file.write('{"time": "2026-01-01T00:00:00+00:00", "event": "late", "cli')
    log_of(folder).tell("start")
    assert [event["event"] for event in read_events(folder / EVENTS)] == ["server", "start"] * 2
    assert read_status(folder).state == "training"


def test_a_log_that_cannot_be_written_is_told_once_and_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    log, write, space = EventLog(stream), os.write, [10_000]

    def almost_full(descriptor: int, data: bytes) -> int:
        if space[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        space[0] -= len(data)
        return write(descriptor, data[: len(data) + min(space[0], 0)])  # as a disk does, half of it

    monkeypatch.setattr(os, "write", almost_full)
    log.write_to(folder)
    log.tell("start")
    space[0] = 20
    for number in range(3):
        log.tell("round", round=number)
    space[0] = 10_000
    log.tell("finished", loss=float("nan"))
    assert [event["event"] for event in read_events(folder / EVENTS)] == ["start", "finished"]
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in told] == ["start", "round", "warning", "round", "round", "finished"]
    assert f"cannot write {folder / EVENTS}: the disk is full; free some space" in told[2]["text"]


def test_a_torn_last_line_is_left_out_and_a_damaged_one_refused(folder: Path) -> None:
    log = EventLog(stream=None)
    log.write_to(folder)
    log.tell("start")
    with (folder / EVENTS).open("a") as file:
        file.write('{"time": "20')
    assert [event["event"] for event in read_events(folder / EVENTS)] == ["start"]
    (folder / EVENTS).write_text('{"time": "yesterday", "event": "start"}\n')
    with pytest.raises(RunError, match=r"events\.jsonl, line 1: no event"):
        read_status(folder)


def test_the_command_prints_a_table_or_json(folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    printed = runner.invoke(app, ["federation", "status", str(folder)])
    assert printed.exit_code == 0
    assert "3 of 3" in printed.output
    found = json.loads(runner.invoke(app, ["federation", "status", str(folder), "--json"]).output)
    assert (found["done"], found["state"]) == (3, "finished")
    missing = runner.invoke(app, ["federation", "status", str(tmp_path / "nowhere")])
    assert isinstance(missing.exception, RunError)
