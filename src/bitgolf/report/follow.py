"""Following a `log.jsonl` while a run writes it: each event once, when its line is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitgolf.report.events import parse_event


class EventDecoder:
    """Decodes events from pieces of a log as they arrive. A line is decoded when its end has arrived."""

    def __init__(self) -> None:
        self._unfinished = b""

    def decode(self, data: bytes) -> list[dict[str, Any]]:
        """Return the events that `data` completes. Lines that are not whole events are skipped."""
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        return [event for line in lines if (event := parse_event(line)) is not None]


class LogFollower:
    """Returns what is appended to a log. start: bytes of the log to leave out, such as those of earlier events.

    A log that has become shorter was replaced: it is read from its beginning.
    """

    def __init__(self, log: Path, *, start: int = 0) -> None:
        self._log, self._position, self._decoder = log, start, EventDecoder()
        self.restarts = 0  # how often the log was read from its beginning again

    def new_events(self) -> list[dict[str, Any]]:
        """Return the events since the last call; none while there is no log."""
        try:
            with self._log.open("rb") as handle:
                if handle.seek(0, 2) < self._position:
                    self._position, self._decoder = 0, EventDecoder()
                    self.restarts += 1
                handle.seek(self._position)
                data = handle.read()
        except FileNotFoundError:
            return []
        self._position += len(data)
        return self._decoder.decode(data)
