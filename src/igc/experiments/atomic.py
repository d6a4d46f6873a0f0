"""Writing what a run leaves behind; where the disk refuses, an error says what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from igc import files
from igc.errors import RunError

RESUME: Final = "`igc resume` the run: it goes on from its last checkpoint"
AGAIN: Final = "give the same command again, or choose another place with --out"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_atomically(path: Path, data: bytes | str, error: type[RunError] = RunError, *, then: str = RESUME) -> None:
    """Put ``data`` into ``path``, wholly or not at all, making its folder if need be.

    Args:
        path: a file.
        data: what it is to hold.
        error: to raise.
        then: how the user goes on once the disk can be written.

    Raises:
        RunError: (or ``error``) the disk is full, or cannot be written; ``path`` is then as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, data)
    except OSError as failure:
        raise error(cannot_write(path, failure, then)) from failure


def cannot_write(path: Path, failure: OSError, then: str = RESUME) -> str:
    """A line that says why ``path`` could not be written, and what to do."""
    what = "the disk is full" if failure.errno in _FULL else (failure.strerror or str(failure))
    remedy = "free some space" if failure.errno in _FULL else "mend that"
    return f"cannot write {path}: {what}; {remedy}, then {then}"
