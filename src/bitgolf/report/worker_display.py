"""What worker processes show: they send it to the process that started them, whose display shows it with its clock.

The way is a FIFO in the folder of the job, which also processes of torchrun find. Each line is one event in JSON.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

from bitgolf.errors import printable
from bitgolf.report.display import Display, shown_on
from bitgolf.report.progress import Progress

FIFO = "display"
PROGRESS_SECONDS = 0.1
"""Least time between two states of the work that a worker sends."""
_END = b"\n"
"""Written at the end; twice, as the first may only complete the line of a worker that was killed."""


class DisplayEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker shows: a message, a detail, or a state of the work; without any, that the work has ended."""

    message: str | None = None
    detail: str | None = None
    progress: Progress | None = None


class WorkerDisplay(Display):
    """Sends all that is shown to the process that started this one. channel: where to, unbuffered."""

    def __init__(self, channel: IO[bytes]) -> None:
        super().__init__()
        self._channel, self._sent = channel, 0.0

    def message(self, text: str) -> None:
        self._send(DisplayEvent(message=_escaped(text)))

    def detail(self, text: str) -> None:
        self._send(DisplayEvent(detail=_escaped(text)))

    def progress(self, progress: Progress) -> None:
        if time.perf_counter() - self._sent >= PROGRESS_SECONDS:
            self._sent = time.perf_counter()
            self._send(DisplayEvent(progress=progress))

    def end_progress(self) -> None:
        self._send(DisplayEvent())

    def _send(self, event: DisplayEvent) -> None:
        with self._lock, suppress(OSError):  # of a process that has ended; this one is about to end, too
            self._channel.write(msgspec.json.encode(event) + b"\n")


def _escaped(text: str) -> str:
    """The text without what is no Unicode, which JSON cannot hold."""
    return "\n".join(map(printable, text.split("\n")))


@contextmanager
def shown_by_starter(folder: Path) -> Iterator[None]:
    """In a worker: send what is shown to the process that started it, if that listens in the folder of the job."""
    if not (folder / FIFO).exists():
        yield
        return
    with (folder / FIFO).open("wb", buffering=0) as channel, shown_on(WorkerDisplay(channel)):
        yield


@contextmanager
def showing_workers(folder: Path, display: Display) -> Iterator[None]:
    """Show what the workers of the job in a folder send, for the duration of a block, by a thread of this process."""
    os.mkfifo(folder / FIFO)
    reader = os.open(folder / FIFO, os.O_RDONLY | os.O_NONBLOCK)  # a reader that waits would wait for a writer
    os.set_blocking(reader, True)
    with (folder / FIFO).open("wb", buffering=0) as own, os.fdopen(reader, "rb") as channel:
        thread = threading.Thread(target=_show, args=(channel, display), daemon=True)
        thread.start()
        try:
            yield
        finally:
            own.write(2 * _END)  # after all that the workers sent, since they have ended
            thread.join()
            display.end_progress()


def _show(channel: IO[bytes], display: Display) -> None:
    for line in channel:
        if line == _END:
            return
        # A worker that was killed leaves an unfinished line; nobody may read standard error, but workers must not block.
        with suppress(msgspec.DecodeError, OSError):
            _show_event(msgspec.json.decode(line, type=DisplayEvent), display)


def _show_event(event: DisplayEvent, display: Display) -> None:
    if event.message is not None:
        display.message(event.message)
    elif event.detail is not None:
        display.detail(event.detail)
    elif event.progress:
        display.progress(event.progress)
    else:
        display.end_progress()
