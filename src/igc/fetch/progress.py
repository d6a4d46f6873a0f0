"""How a download shows itself: a bar on a terminal, one line at each end anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

# Given what is fetched and its size in bytes, opens a display; what that yields is called with the bytes there so far.
Display = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def on_stderr(what: str, size: int) -> Iterator[Callable[[int], None]]:
    """The default display. It writes to standard error, so that a command's output stays clean."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"fetching {what} ({size / 1e6:.1f} MB)", highlight=False, soft_wrap=True)
        yield _ignore
        console.print(f"fetched {what}", highlight=False, soft_wrap=True)
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        task = progress.add_task(f"fetching {what}", total=size)
        yield lambda done: progress.update(task, completed=min(done, size))
        progress.update(task, completed=size)


@contextmanager
def silent(what: str, size: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG001 - the signature is Display's
    """A display that shows nothing."""
    yield _ignore


def _ignore(_done: int) -> None:
    pass
