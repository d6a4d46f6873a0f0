"""What happens in a federation, as lines of JSON: one object a line, with ``time`` and ``event`` in each."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, final

from igc.errors import RunError
from igc.experiments.atomic import cannot_write
from igc.experiments.metrics import JsonLines
from igc.experiments.progress import RoundRecord, RunInfo

Tell = Callable[..., None]  # tell(event, **facts)

EVENTS = "events.jsonl"


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events of a file, the oldest first; none where there is no file. A last line that a kill cut short is left out.

    Raises:
        RunError: the file cannot be read, or a line before the last is no event.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            datetime.fromisoformat(event["time"])
            str(event["event"])
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}, line {number}: no event of a federation; delete that line") from error
        events.append(event)
    return events


def this_process() -> dict[str, Any]:
    """What a server says of itself, by which `is_gone` finds it again."""
    return {"host": socket.gethostname(), "process": os.getpid(), "born": _born(os.getpid())}


def is_gone(event: Mapping[str, Any]) -> bool:
    """Whether the process of a "server" event is known not to run any more; on another machine it may."""
    try:
        number = int(event["process"])
        if os.name != "posix" or event["host"] != socket.gethostname() or number < 1:
            return False
        if _born(number) != event["born"]:
            return True
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, TypeError, ValueError):
        return False
    return False


def _born(process: int) -> str:
    """When a process began, so that a later one with its number is not taken for it; empty where nobody says."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    except (OSError, IndexError):
        return ""


@final
class EventLog:
    """Writes each event to a stream and, once it is known, to a run's ``events.jsonl``.

    A run does not stop because it cannot be watched: that the file cannot be written is told once, and tried again.

    Args:
        stream: where to, such as stdout, which Flower passes on to ``flwr run --stream``; None: the file alone.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._path: Path | None = None
        self._lines: JsonLines | None = None
        self._warned = False

    def write_to(self, folder: Path) -> None:
        """Keep the events from now on in a run's folder, too."""
        self._close()
        self._path = folder / EVENTS

    def tell(self, event: str, **facts: Any) -> None:
        """Write an event."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": moment, "event": event, **facts}, default=str)
        if self._stream is not None:
            self._stream.write(line + "\n")
            self._stream.flush()
        if self._path is not None:
            self._keep(self._path, json.loads(line, parse_constant=str))  # JSON has no word for NaN

    def _keep(self, path: Path, event: dict[str, Any]) -> None:
        try:
            if self._lines is None:
                if not path.parent.exists():  # a new run that cannot even begin takes its folder back
                    return
                self._lines = JsonLines(path)
            self._lines.append(event)
        except RunError as error:
            self._close()  # opened again for the next event, it has no half line at its end
            if not self._warned:
                self._warned = True
                text = _lost(path, error)
                self.tell("warning", text=text)
                if self._stream is None:
                    logging.getLogger("igc").warning(text)

    def _close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None


def _lost(path: Path, error: RunError) -> str:
    cause = error.__cause__
    if not isinstance(cause, OSError):
        return str(error)
    return cannot_write(path, cause, "the log of events goes on; the training does so meanwhile")


@final
class EventObserver:
    """Tells of a run's rounds by events."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def start(self, info: RunInfo) -> None:
        """The run begins, or goes on."""
        self._tell(
            "start",
            title=info.title,
            method=info.method,
            D=info.D,
            d=info.d,
            clients=info.clients,
            after_round=info.start_round,
            rounds=info.rounds,
            folder=str(info.folder),
        )

    def round(self, record: RoundRecord) -> None:
        """A round is over."""
        self._tell("round", **record.to_json())

    def warn(self, text: str) -> None:
        """Something a person should know, that does not stop the run."""
        self._tell("warning", text=text)

    def finish(self) -> None:
        """The run is over; what there is to say of that, its caller says."""
