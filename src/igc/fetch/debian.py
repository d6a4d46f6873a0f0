"""Files of Debian packages: those installed, else downloaded with apt-get and unpacked into the cache, without root.

apt-get brings the user's sources, mirrors, proxies and signatures. It needs their lists (`apt-get update`), not root. What
a package holds is checked again, file by file, so that a package put into ``downloads/`` by hand is as good.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from igc.errors import FetchError
from igc.fetch.archives import extract
from igc.fetch.cache import cache_folder, kept
from igc.fetch.download import no_space
from igc.fetch.package import DebianPackage
from igc.fetch.process import run
from igc.fetch.progress import Display, on_stderr

# apt-get, ended when standard input closes, as it does when our own process ends.
_WATCHED = """\
import os, subprocess, sys, threading

process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

def end_with_parent():
    os.read(0, 1)
    process.kill()

threading.Thread(target=end_with_parent, daemon=True).start()
os._exit(process.wait())
"""

_CHUNK = 1 << 20


def fetch_debian(package: DebianPackage, display: Display = on_stderr) -> Path:
    """The folder with ``package``'s files: where it is installed, else a cached copy, downloaded on first use.

    Args:
        package: what is wanted, normally from :mod:`igc.fetch.packages`.
        display: how progress is shown.

    Returns:
        A folder that holds each of ``package.contents``. Not to be written to.

    Raises:
        FetchError: it is neither here nor can be downloaded, what it holds is not what is wanted, or the disk is full.
    """
    installed = Path(package.installed)
    if _all_there(installed, package):
        return installed
    return kept(
        "debian",
        package.name,
        lambda private: _unpack(package, private, display),
        lambda folder: _all_there(folder, package),
        needs=3 * package.size,
    )


def is_here(package: DebianPackage) -> bool:
    """Whether `fetch_debian` would find the files here, without a network."""
    folders = Path(package.installed), cache_folder() / "debian" / package.name
    return any(_all_there(folder, package) for folder in folders) or bool(_by_hand(package))


def _by_hand(package: DebianPackage) -> list[Path]:
    """What somebody put where the cache looks for it."""
    return sorted((cache_folder() / "downloads").glob(f"{package.name}_*.deb"))


def _all_there(folder: Path, package: DebianPackage) -> bool:
    # A folder of the cache appears whole or not at all, and whoever installed a package has checked it.
    return all((folder / name).is_file() for name in package.contents)


def _unpack(package: DebianPackage, private: Path, display: Display) -> Path:
    downloads = cache_folder() / "downloads"
    if by_hand := _by_hand(package):
        file = by_hand[-1]
    else:
        remedy = (
            f"install it, or run 'apt-get download {package.name}' on a Debian system that reaches its mirror and put the"
            f" .deb into {downloads}"
        )
        with display(f"Debian's {package.name}", package.size) as report:
            file = _download(package, private, remedy, report)
    contents = private / "contents"
    contents.mkdir()
    extract(file, tuple(f"data.tar*!./*/{name}" for name in package.contents), contents)
    for name, wanted in package.contents.items():
        got = _digest(contents / name)
        if got != wanted:
            raise FetchError(
                f"{name} of {file.name} has the wrong content: expected sha256 {wanted} uncompressed, got {got}; remove"
                f" {file} if it was put there by hand, or see what your Debian sources serve"
            )
    return contents


def _download(package: DebianPackage, private: Path, remedy: str, report: Callable[[int], None]) -> Path:
    name = package.name
    program = shutil.which("apt-get")
    if program is None:
        raise FetchError(f"cannot download Debian's package {name}: there is no apt-get here; {remedy}")
    folder = private / "apt"
    folder.mkdir()
    log = private / "apt.log"
    command = [sys.executable, "-c", _WATCHED, program, "--quiet=2", "download", name]
    code = run(command, folder, {**os.environ, "LC_ALL": "C"}, log, report, cwd=folder)
    found = sorted(folder.glob(f"{name}_*.deb"))
    if code == 0 and found:
        return found[0]
    said = log.read_text(encoding="utf-8", errors="replace")
    if "No space left on device" in said:
        raise FetchError(no_space(name, private, 3 * package.size))
    errors = [line.strip() for line in said.splitlines() if line.startswith("E:")]
    why = (errors or [line.strip() for line in said.splitlines() if line.strip()] or ["nothing"])[-1][:300]
    hint = "run 'apt-get update' as root, " if "Unable to locate" in why or "No packages found" in why else ""
    raise FetchError(f"cannot download Debian's package {name} (apt-get said: {why}); {hint}{remedy}")


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FetchError(f"{file.name} of the package is damaged: {error}") from error
    return digest.hexdigest()
