"""Take single files out of zip, tar and ar archives, also out of archives inside archives, and out of nothing else."""

from __future__ import annotations

import fnmatch
import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from igc.errors import FetchError

Entry = tuple[str, IO[bytes]]

# Debian packages, deb(5): a line, then for each member a header of 60 bytes (name in 16, ..., size in decimal at 48 to 58,
# "`\n") and its content, padded to an even length.
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def extract(archive: Path, patterns: tuple[str, ...], folder: Path) -> dict[str, int]:
    """Write the members that ``patterns`` name into ``folder``, flat.

    Only regular files are taken, each under the last component of its name: neither ``../`` nor a link in an archive
    can reach outside ``folder``.

    Args:
        archive: a zip (wheel), a tar file, compressed or not, or an ar file (Debian package).
        patterns: globs over member names; ``a!b`` looks for ``b`` inside the archives that match ``a``.
        folder: an existing folder.

    Returns:
        Name -> size in bytes of what was written.

    Raises:
        FetchError: the archive is damaged, a pattern matches nothing, or two members share a name.
    """
    sizes: dict[str, int] = {}
    try:
        for outer, inner in _grouped(patterns).items():
            with archive.open("rb") as file:
                _extract(archive.name, file, outer, inner, folder, sizes)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FetchError(f"{archive} is not a readable archive: {error}") from error
    return sizes


def _grouped(patterns: tuple[str, ...]) -> dict[str, list[str]]:
    """Pattern -> patterns to look for inside what it matches, so that a nested archive is opened once."""
    groups: dict[str, list[str]] = {}
    for pattern in patterns:
        outer, _, inner = pattern.partition("!")
        groups.setdefault(outer, []).extend([inner] if inner else [])
    return groups


def _extract(where: str, file: IO[bytes], outer: str, inner: list[str], folder: Path, sizes: dict[str, int]) -> None:
    found = False
    with _entries(file) as entries:
        for name, content in entries:
            if not fnmatch.fnmatchcase(name, outer):
                continue
            found = True
            if inner:
                # Read in memory, because a stream inside a stream cannot seek everywhere. The largest is 83 MB.
                nested = io.BytesIO(content.read())
                for pattern in inner:
                    nested.seek(0)
                    _extract(f"{where}!{name}", nested, pattern, [], folder, sizes)
                continue
            target = folder / PurePosixPath(name).name
            if target.name in sizes:
                raise FetchError(f"{where} holds two members named '{target.name}' that match '{outer}'")
            with target.open("xb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
                sizes[target.name] = out.tell()
    if not found:
        raise FetchError(f"{where} has no member '{outer}'")


@contextmanager
def _entries(file: IO[bytes]) -> Iterator[Iterator[Entry]]:
    """Name and content of every regular file, in the archive's order; a content is valid until the next one."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as bundle:
            yield _zip_entries(bundle)
        return
    file.seek(0)
    if file.read(len(_AR_MAGIC)) == _AR_MAGIC:
        yield _ar_entries(file)
    else:
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            yield _tar_entries(tar)


def _zip_entries(bundle: zipfile.ZipFile) -> Iterator[Entry]:
    for info in bundle.infolist():
        if not info.is_dir():
            with bundle.open(info) as content:
                yield info.filename, content


def _tar_entries(tar: tarfile.TarFile) -> Iterator[Entry]:
    for info in tar:
        content = tar.extractfile(info) if info.isreg() else None
        if content is not None:
            with content:
                yield info.name, content


def _ar_entries(file: IO[bytes]) -> Iterator[Entry]:
    while header := file.read(_AR_HEADER):
        if len(header) < _AR_HEADER or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise tarfile.ReadError("a member's header is damaged")
        size = int(header[48:58])
        content = file.read(size)
        if len(content) < size:
            raise EOFError(f"a member of {size} bytes ends after {len(content)}")
        yield header[:16].decode("utf-8", "replace").rstrip(" /"), io.BytesIO(content)
        file.read(size % 2)
