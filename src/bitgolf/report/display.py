"""What a person sees on standard error while a command runs: messages, and the progress of the work.

A process has one current display, with one clock. Worker processes send all that they show to the process that started
them (`worker_display`).
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import RLock
from typing import IO, TYPE_CHECKING

from bitgolf.errors import printable
from bitgolf.report.progress import Progress
from bitgolf.report.wrapping import columns_of, line_width, terminal_width, wrap

if TYPE_CHECKING:
    from bitgolf.report.live_area import LiveArea

PLAIN_SECONDS = 5.0
"""Seconds between lines of progress where there is no terminal."""
NOTEBOOK_SECONDS = 0.5
"""Seconds between changes of the line of progress in a notebook."""


class Display(ABC):
    """Shows messages and progress. May be called by several threads.

    verbose: whether details are shown.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.started, self.verbose, self._lock = time.perf_counter(), verbose, RLock()

    @abstractmethod
    def message(self, text: str) -> None:
        """Show a message, with the seconds since the start."""

    def detail(self, text: str) -> None:
        """Show a message that only --verbose asks for."""
        if self.verbose:
            self.message(text)

    @abstractmethod
    def progress(self, progress: Progress) -> None:
        """Show the state of the work, in place of the one before."""

    def lines_in_place(self, lines: Sequence[str]) -> bool:
        """Show lines in place of the state of the work. Returns False where nothing can be redrawn: they are not shown."""
        return False

    @abstractmethod
    def end_progress(self) -> None:
        """Show no state of the work any more, because it has ended, or because other output follows."""

    def before_result(self) -> None:
        """Prepare for the result of the command, which follows on standard output."""
        self.end_progress()

    def clock(self) -> str:
        """The seconds since the start, as messages begin."""
        return f"[{time.perf_counter() - self.started:6.1f} s] "

    def lines(self, text: str, width: int) -> list[str]:
        """The lines of a message: it begins with the clock, and is indented below it. Control characters are escaped."""
        clock = self.clock()
        plain = "\n".join(printable(line.replace("\t", "    ")) for line in text.splitlines() or [""])
        return wrap(plain, width, first=clock, rest=" " * columns_of(clock))


class PlainDisplay(Display):
    """Where there is no terminal: whole lines without control characters.

    A line of progress is printed when nothing was for `every` seconds.
    """

    def __init__(self, *, verbose: bool = False, every: float = PLAIN_SECONDS) -> None:
        super().__init__(verbose=verbose)
        self._every, self._printed = every, self.started

    def message(self, text: str) -> None:
        with self._lock:
            self._printed = time.perf_counter()
            if sys.stderr:  # it may be closed, and `print` would take standard output
                print(*self.lines(text, line_width(sys.stderr)), sep="\n", file=sys.stderr, flush=True)

    def progress(self, progress: Progress) -> None:
        with self._lock:
            known = progress.share is not None or progress.details
            if known and time.perf_counter() - self._printed >= self._every:
                self.message(progress.line(line_width(sys.stderr) - len(self.clock())))

    def end_progress(self) -> None:
        pass


class NotebookDisplay(PlainDisplay):
    """In a notebook: messages as lines, and below them the state of the work, a line that is replaced."""

    _columns = 0  # of the line that shows the state of the work, 0 without one

    def __init__(self, *, verbose: bool = False, every: float = NOTEBOOK_SECONDS) -> None:
        super().__init__(verbose=verbose, every=every)

    def message(self, text: str) -> None:
        with self._lock:
            self.end_progress()
            super().message(text)

    def progress(self, progress: Progress) -> None:
        with self._lock:
            if time.perf_counter() - self._printed >= self._every:
                self._printed = time.perf_counter()
                self._replace(self.clock() + progress.line(line_width(sys.stderr) - len(self.clock())))

    def end_progress(self) -> None:
        with self._lock:
            if self._columns:
                self._replace("")

    def _replace(self, line: str) -> None:
        """Write a line over the one before. A notebook keeps what the new line does not cover, so spaces cover it."""
        rest, self._columns = self._columns - columns_of(line), columns_of(line)
        print(f"\r{line}{' ' * rest}", end="" if line else "\r", file=sys.stderr, flush=True)


class LiveDisplay(Display):
    """On a terminal: one line that is redrawn in place, within the width of the terminal, and messages above it."""

    _messages = False  # whether there are messages above what is shown next

    def message(self, text: str) -> None:
        with self._lock:
            self._messages = True
            width = line_width(sys.stderr)
            self._area.print(self.lines(text, min(width, terminal_width(self._stream) or width)))

    def progress(self, progress: Progress) -> None:
        with self._lock:
            self._area.show(progress)

    def lines_in_place(self, lines: Sequence[str]) -> bool:
        with self._lock:
            self._area.show_lines(lines)
        return True

    def end_progress(self) -> None:
        with self._lock:
            if "_area" in vars(self):
                self._area.clear()

    def before_result(self) -> None:
        """End the progress, and leave a line empty between messages and the result if both are on the terminal."""
        self.end_progress()
        if self._messages and terminal_width(sys.stdout):
            self._area.print([""])
            self._messages = False

    @cached_property
    def _area(self) -> LiveArea:
        from bitgolf.report.live_area import LiveArea  # when it is needed: rich takes a while to import

        return LiveArea(self._stream)

    @cached_property
    def _stream(self) -> IO[str]:
        """Standard error itself; `sys.stderr` is replaced while there is a live line."""
        return sys.stderr


class QuietDisplay(Display):
    """Shows nothing: of --quiet."""

    def message(self, text: str) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass

    def end_progress(self) -> None:
        pass


def open_display(*, quiet: bool = False, verbose: bool = False) -> Display:
    """Return the display for standard error: with a live line on a terminal and in a notebook, otherwise plain lines.

    quiet: show nothing.
    """
    if quiet:
        return QuietDisplay()
    if type(sys.stderr).__module__.startswith("ipykernel."):
        return NotebookDisplay(verbose=verbose)
    if sys.stderr and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        return LiveDisplay(verbose=verbose)
    return PlainDisplay(verbose=verbose)


_shown = list[Display]()


def current_display() -> Display:
    """The display of this process: that of the innermost `shown_on`, otherwise a plain one."""
    if not _shown:
        _shown.append(PlainDisplay())
    return _shown[-1]


@contextmanager
def shown_on(display: Display) -> Iterator[Display]:
    """Make a display that of this process for the duration of a block."""
    _shown.append(display)
    try:
        yield display
    finally:
        display.end_progress()
        _shown.remove(display)
