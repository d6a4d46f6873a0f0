"""Checkpoints: what is written comes back, a kill harms nothing, damage is refused and named."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from igc.errors import CheckpointError
from igc.experiments import checkpoint

json_trees = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8])
shapes = st.lists(st.integers(0, 4), max_size=3)


def refuse(text: str) -> None:
    pytest.fail(f"reported as damaged: {text}")


def ignore(text: str) -> None:
    """Somebody else's test looks at what is reported."""


def example(round: int) -> tuple[dict[str, object], dict[str, Tensor]]:
    return {"round": round, "sigma": [0.1, 1e-300]}, {"sigma": torch.full((32,), float(round)), "step": torch.tensor(7)}


def save(folder: Path, round: int, keep: int = 3) -> Path:
    tree, tensors = example(round)
    return checkpoint.save(folder, round, tree, tensors, keep)


def rounds(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("round-")) for path in folder.glob("*.ckpt"))


@given(
    tree=json_trees,
    layout=st.dictionaries(st.text(max_size=6), st.tuples(dtypes, shapes), max_size=4),
    seed=st.integers(0, 99),
)
def test_what_is_saved_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    tree: dict[str, object],
    layout: dict[str, tuple[torch.dtype, list[int]]],
    seed: int,
) -> None:
    layout.pop("__metadata__", None)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (torch.randn(shape, generator=generator) * 50).abs().to(dtype) for name, (dtype, shape) in layout.items()
    }
    folder = tmp_path_factory.mktemp("run")
    checkpoint.save(folder, seed, tree, tensors, keep=1)
    round, found_tree, found = checkpoint.load_latest(folder, refuse)
    assert (round, found_tree) == (seed, tree)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_views_and_shared_memory_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {"base": base, "column": base[:, 1], "transposed": base.t(), "same": base}
    checkpoint.save(tmp_path, 1, {}, tensors, keep=1)
    _, _, found = checkpoint.load_latest(tmp_path, refuse)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    found["same"].add_(1)  # what comes back can be changed, each on its own
    assert torch.equal(found["base"], base)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for round in range(5):
        save(tmp_path, round, keep=2)
    assert rounds(tmp_path) == [3, 4]
    assert checkpoint.load_latest(tmp_path, refuse)[0] == 4


def test_rounds_that_were_taken_back_are_deleted(tmp_path: Path) -> None:
    for round in (10, 20, 30):
        save(tmp_path, round)
    save(tmp_path, 15, keep=1)
    assert rounds(tmp_path) == [15]


def test_keep_must_leave_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep = 0"):
        save(tmp_path, 1, keep=0)


@pytest.mark.parametrize(
    ("damage", "defect"),
    [
        (lambda content: content[:-1], "bytes of payload where it promises"),
        (lambda content: content + b"\0", "bytes of payload where it promises"),
        (lambda content: content[:51], "cut short"),
        (lambda content: content[:0], "cut short"),
        (lambda content: b"PK" + content[2:], "is no checkpoint"),
        (lambda content: content[:8] + b"\x02" + content[9:], "layout version 2"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "SHA-256"),
    ],
)
def test_damage_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[bytes], bytes], defect: str
) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    newest.write_bytes(damage(newest.read_bytes()))
    reports: list[str] = []
    round, tree, tensors = checkpoint.load_latest(tmp_path, reports.append)
    assert (round, tree) == (10, example(10)[0])
    assert torch.equal(tensors["sigma"], example(10)[1]["sigma"])
    assert len(reports) == 1
    assert newest.name in reports[0]
    assert defect in reports[0]
    assert "\n" not in reports[0]


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    whole = path.read_bytes()
    for position in sorted({*range(60), *random.Random(0).sample(range(len(whole)), 60)}):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load_latest(tmp_path, ignore)


def test_where_none_is_left_each_is_named(tmp_path: Path) -> None:
    for round in (1, 2):
        path = save(tmp_path, round)
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"round-00000002\.ckpt is damaged.*round-00000001\.ckpt is damaged"):
        checkpoint.load_latest(tmp_path, ignore)


@pytest.mark.parametrize("folder", ["", "missing"])
def test_where_there_is_none_it_says_what_to_do(tmp_path: Path, folder: str) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*`igc resume` begins at the start"):
        checkpoint.load_latest(tmp_path / folder, refuse)


def test_leftovers_are_ignored_and_deleted_by_the_writer_alone(tmp_path: Path) -> None:
    save(tmp_path, 3)
    leftover = tmp_path / ".round-00000004.ckpt.123.tmp"
    leftover.write_bytes(b"half a checkpoint")
    assert checkpoint.load_latest(tmp_path, refuse)[0] == 3
    assert leftover.exists(), "a run that is being trained is looked at: its trainer is writing this"
    checkpoint.tidy(tmp_path)
    assert not leftover.exists()
    assert checkpoint.load_latest(tmp_path, refuse)[0] == 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*round-00000001\.ckpt: (Not a directory|File exists)"):
        save(tmp_path / "file" / "checkpoints", 1)


def run_python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(os.name == "nt", reason="fork and SIGKILL")
def test_a_kill_at_any_moment_leaves_the_newest_whole(tmp_path: Path) -> None:
    # Children save rounds as fast as they can, forked from one parent so that each need not import torch, and are
    # killed at random moments; whatever is on the disk then must load, and be no older than what was said to be saved.
    script = """
        import os, pathlib, random, signal, sys, time
        import torch
        from igc.experiments import checkpoint
        folder, moments = pathlib.Path(sys.argv[1]), random.Random(0)
        torch.set_num_threads(1)
        torn = 0
        for trial in range(25):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                for round in range(1, 10_000):
                    checkpoint.save(folder, round, {"round": round}, {"sigma": torch.full((200_000,), float(round))}, 2)
                    os.write(writer, round.to_bytes(4, "little"))
                os._exit(0)
            os.close(writer)
            first = os.read(reader, 4)
            time.sleep(moments.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            said = first
            while more := os.read(reader, 4096):
                said += more
            os.close(reader)
            torn += any(folder.glob("*.tmp"))
            checkpoint.tidy(folder)
            damaged = []
            round, tree, tensors = checkpoint.load_latest(folder, damaged.append)
            assert not damaged, damaged
            assert round >= int.from_bytes(said[-4:], "little"), (round, said[-4:])
            assert tree == {"round": round} and torch.equal(tensors["sigma"], torch.full((200_000,), float(round)))
            assert not any(folder.glob("*.tmp"))
        print(torn)
    """
    outcome = run_python(script, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert int(outcome.stdout) > 0, "no kill hit a write: the test shows nothing"


@pytest.mark.skipif(os.name == "nt", reason="resource limits")
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    # The system refuses to let the file grow, as it does on a full disk, half-way through the payload.
    script = """
        import pathlib, resource, sys
        import torch
        from igc.errors import CheckpointError
        from igc.experiments import checkpoint
        folder = pathlib.Path(sys.argv[1])
        checkpoint.save(folder, 1, {}, {"sigma": torch.ones(1000)}, 3)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            checkpoint.save(folder, 2, {}, {"sigma": torch.ones(100_000)}, 1)
        except CheckpointError as error:
            print(error)
        print(*sorted(path.name for path in folder.iterdir()))
        print(checkpoint.load_latest(folder, print)[0])
    """
    outcome = run_python(script, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    message, files, round = outcome.stdout.splitlines()
    assert message.startswith("cannot write")
    assert "the disk is full; free some space, then `igc resume`" in message
    assert (files, round) == ("round-00000001.ckpt", "1")


def test_the_accounts_of_very_many_clients_are_no_hindrance(tmp_path: Path) -> None:
    tree = {"accounts": {f"client-{i:0100}": i for i in range(1_000_000)}}  # 125 MB
    checkpoint.save(tmp_path, 1, tree, {"sigma": torch.arange(4.0)}, 1)
    done, found, tensors = checkpoint.load_latest(tmp_path, refuse)
    assert (done, found) == (1, tree)
    assert tensors.keys() == {"sigma"}
