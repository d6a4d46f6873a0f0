"""Writing what a run leaves behind; where the disk refuses, an error says what to do."""

from __future__ import annotations

import errno
from pathlib import Path

from igc import files
from igc.errors import RunError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_atomically(path: Path, data: bytes | str, error: type[RunError] = RunError) -> None:
    """Put ``data`` into ``path``, wholly or not at all, making its folder if need be.

    Raises:
        RunError: (or ``error``) the disk is full, or cannot be written; ``path`` is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, data)
    except OSError as failure:
        raise error(cannot_write(path, failure)) from failure


def cannot_write(path: Path, failure: OSError) -> str:
    """A line that says why ``path`` could not be written, and what to do."""
    what = "the disk is full" if failure.errno in _FULL else (failure.strerror or str(failure))
    remedy = "free some space" if failure.errno in _FULL else "mend that"
    return f"cannot write {path}: {what}; {remedy}, then `igc resume` the run: it goes on from its last checkpoint"
