"""Worker processes against client by client: same bytes, same states, same reactions; and no process is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from igc.errors import TrainingError
from igc.experiments import checkpoint
from igc.federation import Crew, NonFiniteError, Processes, Request
from igc.records import to_tree
from support.command import start
from support.federation import Federation
from support.processes import CASES, DOOMED, POISONED, federation, respond_to_any
from support.tiny import write_recipe

ROUNDS = 6


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    made = Crew(respond_to_any, count=2)
    yield made
    made.close()
    assert multiprocessing.active_children() == []


def pair(case: str, crew: Crew, **settings: Any) -> tuple[Federation, Federation]:
    """The same federation, in this process and in others."""
    single, several = federation(case, **settings), federation(case, **settings)
    several.engine.inner = Processes(several.engine.inner, crew)  # type: ignore[assignment]
    return single, several


def everything(f: Federation) -> tuple[Any, list[str]]:
    """All that the federation knows, in comparable form: tensors are named by the digest of their content."""
    tensors: dict[str, Tensor] = {}
    known = to_tree({"state": f.server.state, "memories": dict(f.engine.inner.memories)}, tensors)
    return known, sorted(tensors)


@pytest.mark.parametrize("case", [case for case in CASES if case != "stop"])
def test_payloads_ledger_states_and_memories_are_the_same_bit_for_bit(case: str, crew: Crew) -> None:
    single, several = pair(case, crew, sampling="uniform", dropout=0.25, per_round=5)
    for f in (single, several):
        f.run(ROUNDS // 2)
        f.engine.inner.memories.pop(f"{case}/c1", None)  # a device that was wiped
    assert single.run(ROUNDS) == several.run(ROUNDS)
    assert several.engine.down == single.engine.down
    assert several.engine.up == single.engine.up
    assert several.server.ledger.accounts == single.server.ledger.accounts
    assert everything(several) == everything(single)


def test_what_a_message_lacks_is_said_by_the_process_that_got_it(crew: Crew) -> None:
    _, several = pair("static", crew)
    with pytest.raises(Exception) as here:
        federation("static").engine.inner.respond(Request("static/c0", 0, b"nonsense"), None)
    with pytest.raises(type(here.value), match="^" + str(here.value)[:20]):
        list(several.engine.inner.exchange(0, [Request("static/c0", 0, b"nonsense")]))


def test_a_loss_that_is_not_finite_stops_at_the_same_client_with_the_same_words(crew: Crew) -> None:
    single, several = pair("stop", crew, per_round=8)
    words = []
    for f in (single, several):
        with pytest.raises(NonFiniteError, match=f"stop/{POISONED}") as error:
            f.run(2)
        words.append(str(error.value))
    assert words[0] == words[1]
    assert several.engine.up == single.engine.up
    healthy = next(client for _, client, _ in several.engine.down if not client.endswith(POISONED))
    again = [Request(healthy, 0, several.engine.down[0][2])]
    # Processes that were idle may be there still; what others were at when it ended does not come up now.
    assert list(several.engine.inner.exchange(0, again)) == list(single.engine.inner.exchange(0, again))


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("when", ["at work", pytest.param("idle", marks=pytest.mark.slow)])
def test_a_process_that_dies_is_named_and_takes_the_others_with_it(when: str, crew: Crew) -> None:
    _, several = pair("fedavg", crew)
    several.run(1)
    processes = multiprocessing.active_children()
    assert len(processes) == 2
    requests = [Request(client, 0, several.engine.down[0][2]) for client in ("fedavg/c0", f"fedavg/{DOOMED}")]
    if when == "idle":
        requests.pop()
        for process in processes:
            os.kill(process.pid or 0, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"worker process . of 2 .*exit code -9 \(SIGKILL\).*igc resume"):
        list(several.engine.inner.exchange(0, requests))
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    local = {"learning_rate": 0.05, "batch_size": 3}
    federation = {"rounds": 8, "processes": 2}
    return write_recipe(tmp_path_factory.mktemp("tiny"), local=local, federation=federation)


def children(process: Any) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def after_rounds(folder: Path, process: Any, rounds: int) -> list[str]:
    """Wait for so many lines of metrics; the process's children then."""
    deadline = time.monotonic() + 240
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= rounds:
            break
        time.sleep(0.005)
    return children(process)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("what", ["worker killed", "Ctrl-C", "parent killed"])
def test_a_run_that_ends_early_leaves_a_checkpoint_and_no_process(what: str, recipe: Path) -> None:
    folder = recipe.parent / what.replace(" ", "-")
    arguments = ["train", str(recipe), "--out", str(folder), "--set", "checkpoint.every=1", "--rounds", "100000"]
    process = start(arguments, recipe.parent, "import os; os.setsid(); ")
    below = after_rounds(folder, process, 4)
    workers = [pid for pid in below if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    if what == "worker killed":
        os.kill(int(workers[1]), signal.SIGKILL)
    elif what == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes get it
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)
    said = errors.decode()
    assert process.returncode == {"worker killed": 2, "Ctrl-C": 130, "parent killed": -signal.SIGKILL}[what], said
    assert "Traceback" not in said
    if what == "worker killed":
        assert "exit code -9 (SIGKILL)" in " ".join(said.split())
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []
    saved = checkpoint.load_latest(folder / "checkpoints", pytest.fail)[0]
    assert saved >= 2
