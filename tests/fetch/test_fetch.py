"""The fetcher against a real pip, real processes and real kills."""

import dataclasses
import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import igc.fetch.cache
import igc.fetch.download
from igc.errors import FetchError
from igc.fetch import Package, cache_folder, fetch, on_stderr, silent

FETCH = """
import os, signal, sys
from igc.fetch import Package, cache, fetch, process
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def die_after(function):
    def call(*args, **options):
        function(*args, **options)
        die()
    return call
moment = sys.argv[2]
if moment == "pip started":
    process.subprocess.Popen = die_after(process.subprocess.Popen)
if moment == "downloaded":
    cache.download = die_after(cache.download)
if moment == "half extracted":
    from igc.fetch import archives
    archives.shutil.copyfileobj = lambda source, out, size: (out.write(source.read(1)), out.flush(), die())
if moment == "extracted":
    cache.extract = die_after(cache.extract)
if moment == "marked":
    cache.Path.rename = die
print(fetch(eval(sys.argv[1])))
"""


def start(package: Package, moment: str = "never") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, repr(package), moment],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "complete.json"}


WHEEL_CONTENTS = {"poem.txt": b"O!", "config.json": b"{}", "weights.bin": b"w" * 1000}


def test_a_wheel_gives_its_members_and_those_of_an_archive_in_it(wheel: Package, home: Path) -> None:
    folder = fetch(wheel, silent)
    assert folder == home / "packages" / "tinywheel-1.0"
    assert contents(folder) == WHEEL_CONTENTS
    assert list((home / "tmp").iterdir()) == []


def test_a_source_archive_is_fetched_without_running_its_setup(sdist: tuple[Package, Path]) -> None:
    package, trace = sdist
    assert contents(fetch(package, silent)) == {"table.txt": b"1\t2\n"}
    assert not trace.exists()


def test_the_cache_needs_no_process_and_no_index(
    wheel: Package, index: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = fetch(wheel)
    assert capfd.readouterr().err == "fetching tinywheel==1.0 (0.0 MB)\nfetched tinywheel==1.0\n"
    (index / wheel.filename).unlink()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch(wheel) == first
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("moment", ["pip started", "downloaded", "half extracted", "extracted", "marked"])
def test_after_a_kill_the_next_call_works(moment: str, wheel: Package, home: Path) -> None:
    process = start(wheel, moment)
    assert process.wait(60) == -signal.SIGKILL
    process.communicate()
    assert not (home / "packages" / "tinywheel-1.0").exists()
    assert contents(fetch(wheel, silent)) == WHEEL_CONTENTS
    assert list((home / "tmp").iterdir()) == []


def test_of_two_processes_one_fetches_and_the_other_waits(wheel: Package) -> None:
    processes = [start(wheel), start(wheel)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sorted(err.count("fetching") for _, err in outputs) == [0, 1]


def test_a_damaged_cache_is_made_anew(wheel: Package) -> None:
    folder = fetch(wheel, silent)
    (folder / "weights.bin").write_bytes(b"short")
    assert contents(fetch(wheel, silent)) == WHEEL_CONTENTS
    (folder / "complete.json").write_text("[]")
    assert contents(fetch(wheel, silent)) == WHEEL_CONTENTS


def test_other_members_of_the_same_release_are_extracted_anew(wheel: Package) -> None:
    fetch(wheel, silent)
    fewer = dataclasses.replace(wheel, members=("tinywheel/*.txt",))
    assert contents(fetch(fewer, silent)) == {"poem.txt": b"O!"}


def test_a_wrong_checksum_names_both_and_the_file(wheel: Package) -> None:
    other = dataclasses.replace(wheel, sha256="0" * 64)
    with pytest.raises(FetchError, match=f"expected sha256 {'0' * 64}, got {wheel.sha256}") as error:
        fetch(other, silent)
    assert wheel.filename in str(error.value)
    assert contents(fetch(wheel, silent)) == WHEEL_CONTENTS


def test_without_an_index_the_error_says_what_to_do(wheel: Package, index: Path, home: Path) -> None:
    file = index / wheel.filename
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(FetchError) as error:
        fetch(wheel, silent)
    message = str(error.value)
    assert "No matching distribution found for tinywheel==1.0" in message
    assert "pip download --no-deps tinywheel==1.0" in message
    assert str(home / "downloads") in message
    assert "\n" not in message
    # and the remedy is one
    (home / "downloads" / wheel.filename).write_bytes(content)
    assert contents(fetch(wheel, silent)) == WHEEL_CONTENTS


def test_the_remedy_for_a_source_archive_asks_for_the_source(sdist: tuple[Package, Path], index: Path) -> None:
    (index / sdist[0].filename).unlink()
    with pytest.raises(FetchError, match=r"pip download --no-deps --no-binary :all: tinysdist==1.0"):
        fetch(sdist[0], silent)


def test_a_corrupt_file_put_there_by_hand_is_named(wheel: Package, home: Path) -> None:
    by_hand = home / "downloads" / wheel.filename
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"corrupt")
    with pytest.raises(FetchError, match=r"wrong checksum") as error:
        fetch(wheel, silent)
    assert str(by_hand) in str(error.value)


def test_another_file_than_expected_is_named(wheel: Package) -> None:
    other = dataclasses.replace(wheel, filename="tinywheel-1.0-cp99-none-any.whl")
    with pytest.raises(FetchError, match=r"the index gave tinywheel-1.0-py3-none-any.whl, not tinywheel-1.0-cp99"):
        fetch(other, silent)


def test_without_pip_the_error_says_so(wheel: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FetchError, match=r"no pip; run '.* -m ensurepip'"):
        fetch(wheel, silent)


def test_a_full_disk_while_extracting(wheel: Package, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def full(*_: object) -> dict[str, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(igc.fetch.cache, "extract", full)
        with pytest.raises(FetchError, match=r"no space left under .*home for tinywheel-1.0"):
            fetch(wheel, silent)
    assert list((home / "tmp").iterdir()) == []
    assert contents(fetch(wheel, silent)) == WHEEL_CONTENTS


def test_a_full_disk_while_downloading(wheel: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "full"
    program.write_text("#!/bin/sh\necho 'ERROR: [Errno 28] No space left on device'; exit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(FetchError, match=r"no space left under"):
        fetch(wheel, silent)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(wheel: Package, home: Path) -> None:
    home.mkdir()
    home.chmod(0o500)
    with pytest.raises(FetchError, match=r"cannot write .* set IGC_HOME"):
        fetch(wheel, silent)


def test_a_cache_folder_that_is_a_file(wheel: Package, home: Path) -> None:
    home.write_text("")
    with pytest.raises(FetchError, match=r"cannot write .*; mend it, or set IGC_HOME"):
        fetch(wheel, silent)


def test_progress_is_reported(wheel: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A stand-in for pip that grows a file where pip would, slowly enough to be watched.
    program = tmp_path / "slow"
    program.write_text(f'#!/bin/sh\nhead -c 500 {tmp_path}/slow0 > "$TMPDIR/part"; sleep 0.5; exit 1\n')
    (tmp_path / "slow0").write_bytes(b"x" * 500)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    seen: list[int] = []
    with pytest.raises(FetchError):
        private = tmp_path / "private"
        private.mkdir()
        igc.fetch.download.download(wheel, private, "despair", seen.append)
    assert max(seen) >= 500
    assert seen == sorted(seen)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take the captured stream for a terminal
    with on_stderr("tiny==1.0", 2_000_000) as report:
        report(1_000_000)
    shown = capfd.readouterr().err
    assert "fetching tiny==1.0" in shown
    assert "2.0/2.0 MB" in shown


def test_igc_home_and_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IGC_HOME", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("IGC_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "xdg" / "igc"


def test_the_marker_lists_members_and_sizes(wheel: Package) -> None:
    marker = json.loads((fetch(wheel, silent) / "complete.json").read_text())
    assert marker["sizes"] == {name: len(content) for name, content in WHEEL_CONTENTS.items()}
    assert marker["sha256"] == wheel.sha256
