"""The log of a run: `log.jsonl` (events), `run.log` (text lines), and what the display of this process shows."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from bitgolf.report.display import current_display
from bitgolf.report.observers import Observer, StopRequest
from bitgolf.report.progress import Progress

EVENTS_FILE, LINES_FILE = "log.jsonl", "run.log"


class RunLog:
    """Writes events to the folder of a run, and shows messages and progress on the display of this process.

    Without a folder messages are only shown. quiet: show nothing. delayed: keep what belongs in the folder in memory
    until `start_writing`, so that a command that is refused leaves the folder as it was. observers: receive the events.
    stop: the request of an observer; whoever executes the run honours it.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        quiet: bool = False,
        delayed: bool = False,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.quiet, self.folder, self.observers, self.stop = quiet, folder, observers, StopRequest()
        self._files: dict[str, TextIO] = {}
        self._kept: list[tuple[str, str]] = []
        if not delayed:
            self.start_writing()

    def start_writing(self) -> None:
        """Open the files in the folder and write what was kept. Repeated calls, and calls without a folder, do nothing."""
        if self._files or not self.folder:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (EVENTS_FILE, LINES_FILE):  # names of files in messages need not be valid UTF-8
            path, errors = self.folder / name, "backslashreplace"
            self._files[name] = path.open("a", buffering=1, encoding="utf-8", errors=errors)
        if not _ends_with_line(self.folder / EVENTS_FILE):
            self._files[EVENTS_FILE].write("\n")  # a writer was stopped within a line, which would spoil the next event
        for name, line in self._kept:
            self._files[name].write(line)
        self._kept.clear()

    @property
    def is_writing(self) -> bool:
        """Whether the files in the folder are open."""
        return bool(self._files)

    def _record(self, name: str, line: str) -> None:
        """Append a line to a file of the folder, or keep it until the file is open."""
        if self._files:
            self._files[name].write(line)
        elif self.folder:
            self._kept.append((name, line))

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event to both files, and pass it to the observers. The message of a `warning` event is also shown."""
        event = {"event": kind, "time": round(time.time(), 3), **fields}
        self._record(EVENTS_FILE, json.dumps(event) + "\n")
        self._record(LINES_FILE, " ".join([kind, *(f"{k}:{_format_short(v)}" for k, v in fields.items())]) + "\n")
        if kind == "warning":
            self.info(f"warning: {fields.get('message', '')}", record=False)
        self.observe(event)

    def observe(self, event: dict[str, Any]) -> None:
        """Pass an event to the observers. The first reason that one of them returns becomes the request to stop."""
        for observer in self.observers:
            if reason := observer(event):
                self.stop.request(reason)

    def info(self, message: str, *, record: bool = True) -> None:
        """Show a message, and append it to `run.log` if `record`."""
        if record:
            self._record(LINES_FILE, message + "\n")
        if not self.quiet:
            current_display().message(message)

    def detail(self, message: str) -> None:
        """Append a message to `run.log`; it is shown only with --verbose."""
        self._record(LINES_FILE, message + "\n")
        if not self.quiet:
            current_display().detail(message)

    def progress(self, progress: Progress) -> None:
        """Show the state of the work that is going on; it is not recorded."""
        if not self.quiet:
            current_display().progress(progress)

    def end_progress(self) -> None:
        """Show that the work has ended."""
        if not self.quiet:
            current_display().end_progress()

    def close(self) -> None:
        """Close the files, and show no progress any more."""
        self.end_progress()
        for handle in self._files.values():
            handle.close()


def _ends_with_line(path: Path) -> bool:
    """Whether a file is empty or its last line is complete."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 1))
        return handle.read(1) in (b"", b"\n")


def _format_short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace(" ", "_")
