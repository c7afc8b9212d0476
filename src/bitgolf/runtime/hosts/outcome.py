"""How the workers of a job ended, and which of their failures caused the others."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

from bitgolf.errors import BitgolfError, Interrupted
from bitgolf.runtime.hosts.channel import WorkerEnded
from bitgolf.runtime.job_files import error_fields, error_from, read_error
from bitgolf.runtime.worker import TRACEBACKS
from bitgolf.runtime.worker_process import killed_by

LAST_LINES = 20
"""Lines that a worker printed which are sent to the first process."""


def ended_worker(rank: int, folder: Path, status: int, lines: list[str]) -> WorkerEnded:
    """The end of a worker of the job in a folder, as the first process is told of it."""
    error, traceback = read_error(folder) if status else None, folder / TRACEBACKS.replace("*", str(rank))
    return WorkerEnded(
        rank,
        status,
        error_fields(error) if error else None,
        traceback.read_text() if traceback.exists() else "",
        tuple(lines[-LAST_LINES:]),
    )


class Outcome:
    """The ends of workers, in the order in which they became known.

    places: rank -> the words for its host in messages, "" if it is that of the first process.
    """

    def __init__(self, places: Mapping[int, str]) -> None:
        self._places = places
        self._ended = dict[int, WorkerEnded]()
        self._lost = list[int]()
        self._causes: list[WorkerEnded] | None = None

    def add(self, ended: WorkerEnded) -> None:
        self._ended.setdefault(ended.rank, ended)

    def close(self) -> None:
        """Count all later ends as consequences: the workers are killed."""
        self._causes = list(self._ended.values())

    def lose(self, rank: int) -> None:
        """Note that the process of a rank has ended without a message."""
        if rank not in self._ended:
            self._lost.append(rank)
            self.add(WorkerEnded(rank, 1))

    @property
    def complete(self) -> bool:
        """Whether all workers have ended."""
        return len(self._ended) == len(self._places)

    @property
    def status(self) -> int:
        """Exit status of the job: that of the first worker that failed, 0 if none did."""
        return next((ended.status for ended in self._ended.values() if ended.status), 0)

    @property
    def interrupted(self) -> bool:
        """Whether a worker stopped because of a signal."""
        return any(ended.status == Interrupted.exit_code for ended in self._ended.values())

    def cause(self) -> BitgolfError | None:
        """The error that ended the job, if it is known: what a worker reported, or its end by a signal.

        A worker that loses the connection to one that has failed reports only a traceback.
        """
        causes = list(self._ended.values()) if self._causes is None else self._causes
        for ended in causes:
            if ended.error:
                error = error_from(ended.error)
                place = self._places[ended.rank]
                error.message = f"{place}: {error.message}" if place else error.message
                return error
        for ended in causes:
            if ended.status < 0 and -ended.status != signal.SIGTERM:
                place = self._places[ended.rank]
                return killed_by(ended.rank, len(self._places), -ended.status, f"; {place}" if place else "")
        return self._loss()

    def _loss(self) -> BitgolfError | None:
        return lost(self._lost[0], len(self._places), self._places[self._lost[0]]) if self._lost else None

    def evidence(self) -> str:
        """The first traceback, else what the first worker that failed printed."""
        failed = [ended for ended in self._ended.values() if ended.status]
        texts = [ended.traceback for ended in failed] + ["\n".join(ended.lines) for ended in failed]
        return next(filter(None, texts), "")


def lost(rank: int, processes: int, place: str) -> BitgolfError:
    """The error for a process that has ended without a message. place: words for its host, "" for the first."""
    host = f" on {place}" if place else ""
    return BitgolfError(
        f"process {rank} of {processes} (counted from 0){host} has ended without a message",
        hint="see the output of this process and the logs of its host; the system ends processes if memory runs out",
    )
