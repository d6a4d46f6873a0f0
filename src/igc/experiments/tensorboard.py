"""TensorBoard: the numbers of a run as event files, for whoever has a dashboard open already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from igc.errors import RunError
from igc.experiments.progress import Observer, RoundRecord, RunInfo

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER: Final = "tensorboard"


@final
class TensorBoardObserver:
    """Writes ``RUN/tensorboard/`` and passes everything on.

    Scalars, by round: ``loss/train``, ``METRIC/SPLIT``, ``bytes/up`` and ``bytes/down`` (all clients, so far) and
    ``seconds/round``. A run that goes on after a kill hides what was written of rounds after its checkpoint.

    Args:
        inner: who else watches.

    Raises:
        RunError: TensorBoard is not installed.
    """

    def __init__(self, inner: Observer) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise RunError(
                "--tensorboard needs TensorBoard, which is not installed: pip install"
                " 'intrinsic-gradient-compression[tensorboard]'"
            ) from error
        self._inner = inner
        self._open = SummaryWriter
        self._writer: SummaryWriter | None = None

    def start(self, info: RunInfo) -> None:
        """Open an event file."""
        # Also from round 0: a run that was killed before its first checkpoint has written some that come again.
        self._writer = self._open(str(info.folder / FOLDER), purge_step=info.start_round + 1)
        self._inner.start(info)

    def round(self, record: RoundRecord) -> None:
        """Write the numbers of a round."""
        if self._writer is not None:
            for tag, value in _scalars(record).items():
                self._writer.add_scalar(tag, value, record.round)
        self._inner.round(record)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._inner.warn(text)

    def finish(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._inner.finish()


def _scalars(record: RoundRecord) -> dict[str, float]:
    scalars = {
        "bytes/up": float(record.total_up),
        "bytes/down": float(record.total_down),
        "seconds/round": record.seconds,
    }
    if record.loss is not None:
        scalars["loss/train"] = record.loss
    for split, values in record.metrics.items():
        scalars |= {f"{name}/{split}": value for name, value in values.items()}
    return scalars
