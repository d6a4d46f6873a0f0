"""Stops a federation that nobody's uploads reach: nodes with another recipe, or another version of igc."""

from __future__ import annotations

from typing import Final, final

from igc.errors import TrainingError
from igc.experiments.progress import Observer, RoundRecord, RunInfo

_ROUNDS: Final = 3  # in a row; one may have bad luck


@final
class Heard:
    """Watches whether any upload counts.

    Args:
        observer: is told all that this one is.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._latest = ""
        self._in_vain = 0

    def start(self, info: RunInfo) -> None:
        """The run begins, or goes on."""
        self._observer.start(info)

    def round(self, record: RoundRecord) -> None:
        """A round is over.

        Raises:
            TrainingError: answers came, and none counted, in three rounds in a row or in all that the run has.
        """
        self._observer.round(record)
        in_vain = 0 < record.rejected == record.clients - record.dropped
        self._in_vain = self._in_vain + 1 if in_vain else 0
        if self._in_vain == min(_ROUNDS, record.rounds):
            raise TrainingError(
                f"no upload counted in {self._in_vain} rounds in a row, though answers came; {self._latest}; see that all"
                " nodes have the server's recipe, model and version of igc, then start the run again"
            )

    def warn(self, text: str) -> None:
        """Something a person should know, such as why an upload was left out."""
        self._latest = text
        self._observer.warn(text)

    def finish(self) -> None:
        """The run is over."""
        self._observer.finish()
