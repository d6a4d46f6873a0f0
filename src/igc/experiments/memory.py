"""Where there is not the memory for what was asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from igc.errors import RunError

SMALLER: Final = "take a smaller model, or lower federation.micro_batch, federation.batch_size or federation.processes"
# PyTorch has no class for these; a GPU's, which has one, says the first. The last two are of sizes beyond all memories.
_SAID: Final = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "storage size calculation overflowed",
    "overflow when unpacking long",
)
_SIZE: Final = re.compile(r"(?:tried|unable) to allocate ([\d.]+ \w+)", re.IGNORECASE)


@contextmanager
def enough_memory(advice: str = SMALLER) -> Iterator[None]:
    """Turn a failure to allocate, of Python, NumPy or PyTorch, into a line.

    Args:
        advice: what to do.

    Raises:
        RunError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, TypeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not any(said in text.lower() for said in _SAID):
            raise
        size = _SIZE.search(text)
        why = f": {size[1]} were asked for at once" if size else ""
        raise RunError(f"there is not enough memory{why}; {advice}") from error
