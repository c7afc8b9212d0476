"""The log of a run: `log.jsonl` (events), `run.log` (text lines), and messages on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

EVENTS_FILE, LINES_FILE = "log.jsonl", "run.log"
_silenced = 0  # number of `silenced` blocks that are open


@contextmanager
def silenced() -> Iterator[None]:
    """Within the block, no log of this process or of its workers prints to standard error. Files are written as ever."""
    global _silenced
    _silenced += 1
    try:
        yield
    finally:
        _silenced -= 1


def is_silenced() -> bool:
    """Return whether a `silenced` block is open."""
    return _silenced > 0


class RunLog:
    """Writes events to the folder of a run, and messages to standard error.

    Without a folder only messages are written. quiet: write nothing to standard error. delayed: keep what belongs in
    the folder in memory until `start_writing`, so that a command that is refused leaves the folder as it was.
    """

    def __init__(self, folder: Path | None = None, *, quiet: bool = False, delayed: bool = False) -> None:
        self.started, self.quiet, self.folder = time.perf_counter(), quiet, folder
        self._last_progress, self._progress_line_open = 0.0, False
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

    def _record(self, name: str, line: str) -> None:
        """Append a line to a file of the folder, or keep it until the file is open."""
        if self._files:
            self._files[name].write(line)
        elif self.folder:
            self._kept.append((name, line))

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event to both files. The message of a `warning` event is also printed."""
        self._record(EVENTS_FILE, json.dumps({"event": kind, "time": round(time.time(), 3), **fields}) + "\n")
        self._record(LINES_FILE, " ".join([kind, *(f"{k}:{_format_short(v)}" for k, v in fields.items())]) + "\n")
        if kind == "warning":
            self.info(f"warning: {fields.get('message', '')}", record=False)

    def info(self, message: str, *, record: bool = True) -> None:
        """Print a message to standard error, and append it to `run.log` if `record`."""
        if record:
            self._record(LINES_FILE, message + "\n")
        if not self.quiet and not is_silenced():
            end = "\r\x1b[K" if self._progress_line_open else ""
            print(f"{end}[{time.perf_counter() - self.started:6.1f} s] {message}", file=sys.stderr, flush=True)
            self._progress_line_open = False

    def progress(self, message: str, *, every: float = 5.0) -> None:
        """Print the current state to standard error; it is not recorded.

        On a terminal the line is overwritten in place, at most every 0.2 s. Elsewhere a new line is printed at most
        every `every` seconds.
        """
        now = time.perf_counter()
        terminal = sys.stderr.isatty()
        if self.quiet or is_silenced() or now - self._last_progress < (0.2 if terminal else every):
            return
        self._last_progress = now
        line = f"[{now - self.started:6.1f} s] {message}"
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
        self._progress_line_open = terminal

    def close(self) -> None:
        """Close the files, and end an open progress line."""
        if self._progress_line_open:
            print(file=sys.stderr)
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
