"""The record of a run: `log.jsonl` (events), `run.log` (lines to grep), and what a person sees while it works."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


class RunLog:
    """Writes events to a run's folder and says on standard error what matters. Without a folder it only speaks."""

    def __init__(self, folder: Path | None = None, *, quiet: bool = False) -> None:
        self.started, self.quiet = time.perf_counter(), quiet
        self._last_progress, self._progress_line_open = 0.0, False
        self._events = self._lines = None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            self._events = (folder / "log.jsonl").open("a", buffering=1)
            self._lines = (folder / "run.log").open("a", buffering=1)

    def event(self, kind: str, **fields: Any) -> None:
        """Record an event; warnings are also said."""
        if self._events and self._lines:
            self._events.write(json.dumps({"event": kind, "time": round(time.time(), 3), **fields}) + "\n")
            self._lines.write(" ".join([kind, *(f"{k}:{_format_short(v)}" for k, v in fields.items())]) + "\n")
        if kind == "warning":
            self.info(f"warning: {fields.get('message', '')}", record=False)

    def info(self, message: str, *, record: bool = True) -> None:
        """A line for the person who waits."""
        if record and self._lines:
            self._lines.write(message + "\n")
        if not self.quiet:
            end = "\r\x1b[K" if self._progress_line_open else ""
            print(f"{end}[{time.perf_counter() - self.started:6.1f} s] {message}", file=sys.stderr, flush=True)
            self._progress_line_open = False

    def progress(self, message: str, *, every: float = 5.0) -> None:
        """A passing state: one line that renews itself on a terminal, a plain line now and then elsewhere."""
        now = time.perf_counter()
        terminal = sys.stderr.isatty()
        if self.quiet or now - self._last_progress < (0.2 if terminal else every):
            return
        self._last_progress = now
        line = f"[{now - self.started:6.1f} s] {message}"
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
        self._progress_line_open = terminal

    def close(self) -> None:
        if self._progress_line_open:
            print(file=sys.stderr)
        for handle in (self._events, self._lines):
            if handle:
                handle.close()


def _format_short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace(" ", "_")
