"""One run of a comparison, in a process of its own: ``python -m igc.experiments.compare.one RUN``.

Goes on from the newest checkpoint. Ends with the parent: when standard input closes, which happens when the parent is done
with us and also when it was killed, the run stops as on Ctrl-C, with a checkpoint of the last complete round. What goes
wrong is one line of standard error, and exit code 2; a training that broke down (a loss that is not finite) is 3.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from filelock import FileLock

from igc.errors import IgcError, TrainingError
from igc.experiments.progress import RoundRecord, RunInfo
from igc.experiments.run import LOCK, Run

STOPPED, FAILED, BROKE_DOWN = 130, 2, 3
_PATIENCE_SECONDS = 60  # with a run of the same folder whose parent was killed, until it has finished its round


class Silent:
    """Watches, and tells nobody: the comparison reads the run's own log."""

    def start(self, info: RunInfo) -> None:
        """The run begins, or goes on."""

    def round(self, record: RoundRecord) -> None:
        """A round is over."""

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        sys.stderr.write(f"warning: {text}\n")

    def finish(self) -> None:
        """The run is over."""


def main() -> int:
    """Train the run of the first argument to its end."""
    # Where a shell put the parent in the background, interrupts are ignored, those from ourselves included.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    folder = Path(sys.argv[1])
    with contextlib.suppress(OSError), FileLock(folder / LOCK).acquire(timeout=_PATIENCE_SECONDS):
        """The one before us is gone."""
    try:
        Run.open(folder).train(Silent())
    except KeyboardInterrupt:
        return STOPPED
    except IgcError as error:
        sys.stderr.write(f"{error}\n")
        return BROKE_DOWN if isinstance(error, TrainingError) else FAILED
    return 0


def _stop_with_parent() -> None:
    # Not sys.stdin: its lock would be held while Python shuts down.
    while os.read(0, 1024):
        pass
    _thread.interrupt_main()


if __name__ == "__main__":
    raise SystemExit(main())
