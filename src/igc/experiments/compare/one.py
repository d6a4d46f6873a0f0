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

from igc.errors import IgcError, RunError, TrainingError
from igc.experiments import metrics
from igc.experiments.metrics import METRICS
from igc.experiments.progress import RoundRecord, RunInfo
from igc.experiments.run import LOCK, Run

STOPPED, FAILED, BROKE_DOWN = 130, 2, 3
_PATIENCE_SECONDS = 60
_PATIENCE_ROUNDS = 3


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
    with contextlib.suppress(OSError), FileLock(folder / LOCK).acquire(timeout=patience(folder)):
        """The one before us, whose parent was killed, has finished its round and is gone."""
    try:
        Run.open(folder).train(Silent())
    except KeyboardInterrupt:
        return STOPPED
    except IgcError as error:
        sys.stderr.write(f"{error}\n")
        return BROKE_DOWN if isinstance(error, TrainingError) else FAILED
    return 0


def patience(folder: Path) -> float:
    """Seconds that a run may take to stop: to come to the end of its round, by the longest so far, and save it."""
    try:
        longest = max((float(record["seconds"]) for record in metrics.read(folder / METRICS)), default=0.0)
    except (RunError, KeyError, TypeError, ValueError):  # no log yet, or a damaged one, which its reader will name
        longest = 0.0
    return _PATIENCE_SECONDS + _PATIENCE_ROUNDS * longest


def _stop_with_parent() -> None:
    # Not sys.stdin: its lock would be held while Python shuts down.
    while os.read(0, 1024):
        pass
    _thread.interrupt_main()


if __name__ == "__main__":
    raise SystemExit(main())
