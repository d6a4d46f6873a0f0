"""Ctrl-C at a moment that suits."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until the block is through, so that what belongs together is done whole.

    Code that is called back from C, as pydantic's serialisers are, may also turn a KeyboardInterrupt into an error of
    its own, which then ends the program as if it were at fault. In other threads than the main one, which Ctrl-C never
    reaches, nothing is done.

    Raises:
        KeyboardInterrupt: at the end, if Ctrl-C came meanwhile and nothing else ended the block.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():  # None: another program's handler
        yield
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda *frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)
