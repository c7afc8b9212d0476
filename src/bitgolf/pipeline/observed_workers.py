"""Observation of worker processes: their events are read from the log that they write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from bitgolf.report.follow import LogFollower
from bitgolf.report.log import RunLog

POLL_SECONDS = 0.1


@contextmanager
def observed_workers(log: RunLog, file: Path) -> Iterator[None]:
    """Pass the events that workers write to `file` to the observers of `log`, for the duration of a block.

    If an observer raises, the workers are stopped, and its exception leaves the block.
    """
    if not log.observers:
        yield
        return
    ended, errors = Event(), list[BaseException]()
    follower = LogFollower(file, start=file.stat().st_size if file.exists() else 0)
    thread = Thread(target=_observe, args=(follower, log, ended, errors), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if errors:
            raise errors[0]


def _observe(follower: LogFollower, log: RunLog, ended: Event, errors: list[BaseException]) -> None:
    try:
        while True:
            last = ended.wait(POLL_SECONDS)  # read once more after the end
            for event in follower.new_events():
                log.observe(event)
            if last:
                return
    except BaseException as error:
        errors.append(error)
        log.stop.request(f"an observer failed: {error}")
