"""A worker process as its parent sees it: started, shown, sent signals, awaited."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from bitgolf.errors import BitgolfError
from bitgolf.report.display import current_display
from bitgolf.runtime.signals import signals_to


class Ended(NamedTuple):
    """How a process ended: exit status, whether a signal was forwarded to it, and the lines that it printed."""

    status: int
    signalled: bool
    lines: list[str]


class WorkerProcess:
    """A started command. All that it prints is shown as messages, since stdout is reserved for this process's result.

    variables: environment variables that it has in addition to those of this process.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})) -> None:
        self._display = current_display()
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            env=worker_environment(variables),
        )

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        self._process.send_signal(number)

    def wait(self) -> tuple[int, list[str]]:
        """Show what the process prints until it ends; returns its exit status and these lines."""
        lines = list[str]()
        with self._process as process:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                self._display.message(lines[-1])
        return process.wait(), lines

    @contextmanager
    def forwarding_signals(self) -> Iterator[list[int]]:
        """Forward SIGINT and SIGTERM to the process, and yield the list of signals received.

        Outside the main thread this has no effect.
        """
        caught: list[int] = []

        def forward(number: int) -> None:
            caught.append(number)
            self.send_signal(number)

        with signals_to(forward):
            yield caught


def killed_by(rank: int, processes: int, number: int, where: str = "") -> BitgolfError:
    """The error for a worker that a signal ended. where: the host, for the message."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    memory = " (the system ends processes if memory runs out)" if number == signal.SIGKILL else ""
    return BitgolfError(f"process {rank} of {processes} (counted from 0{where}) was ended by {name}{memory}")


def worker_environment(
    variables: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str] | None:
    """Environment of workers, None for that of this process: they find modules where this process does.

    `python -m` would put the current folder first, so that a file there with the name of a library would be executed.
    """
    searched = {Path(folder).resolve() for folder in sys.path}  # "" is the current folder
    safe = {} if Path.cwd() in searched else {"PYTHONSAFEPATH": "1"}
    return {**os.environ, **safe, **variables} if safe or variables else None
