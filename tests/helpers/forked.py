"""Processes forked from a server that has imported torch and this package, so that each starts without these imports.

They share nothing else with the tests: what a test does after the server has started does not reach them.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from bitgolf.report.display import current_display
from bitgolf.report.observers import StopRequest
from bitgolf.runtime import launch, worker

PRELOADED = ("bitgolf.pipeline.stages", "bitgolf.runtime.worker", "helpers.forked")


class Finished(NamedTuple):
    """Exit status of a process, negative for a signal, and its output: standard output and standard error."""

    status: int
    output: str


def fork_server() -> ForkServerContext:
    """The context of the server, which starts with the first process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class ForkedProcess:
    """A module-level function that runs in a process of its own, with the folder and environment variables of this one.

    An integer that the function returns is the exit status. environment: more variables; torch has read its own already.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._output = Path(self._folder.name) / "output"
        given = (self._output, {**os.environ, **environment}, Path.cwd(), function, arguments)
        self._process = fork_server().Process(target=_call, args=given)
        self._process.start()

    @property
    def status(self) -> int | None:
        """The exit status, None while the process runs."""
        return self._process.exitcode

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid
        return self._process.pid

    def kill(self) -> None:
        """End the process, if it is still running."""
        self._process.kill()

    def finish(self, seconds: float = 150) -> Finished:
        """Wait for the end. Ends the process and fails if it is still running after `seconds`."""
        self._process.join(seconds)
        status = self._process.exitcode
        self.kill()
        self._process.join()
        self._process.close()
        text = self._output.read_text(errors="replace") if self._output.exists() else ""
        self._folder.cleanup()
        assert status is not None, f"still running after {seconds} s:\n{text}"
        return Finished(status, text)


def run_script(file: str, arguments: Sequence[str]) -> None:
    """Run a file as `python FILE ARGUMENTS` would. For `ForkedProcess`."""
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")


def run_worker_ranks(folder: Path, count: int, stop: StopRequest | None = None) -> Finished:
    """Run the job in `folder` as one worker, or as `count` ranks that find each other at a port of this host.

    stop: a request on which SIGTERM is sent to all. The first rank that fails ends the others. Returns its status, 0 if none failed, and the output of all.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    variables = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {} for rank in range(count)]
    ranks = [ForkedProcess(worker.main, folder, environment=own) for own in variables]
    with (stop or StopRequest()).calling(lambda: [os.kill(rank.pid, signal.SIGTERM) for rank in ranks]):
        while any(rank.status is None for rank in ranks) and not any(rank.status for rank in ranks):
            time.sleep(0.005)
    status = next((rank.status for rank in ranks if rank.status), 0)
    if status:
        for rank in ranks:
            rank.kill()
    return Finished(status, "".join(rank.finish().output for rank in ranks))


def run_forked_workers(command: list[str], stop: StopRequest) -> launch.Ended:
    """Takes the place of `launch._run`, which executes the command of one worker or of torchrun."""
    module, folder, *processes = command[2:]
    assert module == f"bitgolf.runtime.{'torchrun' if processes else 'worker'}", command
    done = run_worker_ranks(Path(folder), int(processes[0]) if processes else 1, stop)
    lines = done.output.splitlines()
    for line in lines:
        current_display().message(line)
    return launch.Ended(done.status, False, lines)


@pytest.fixture(scope="module", autouse=True)
def forked_workers() -> Iterator[None]:
    """`run_worker` forks its workers from the server, with the environment variables that torchrun would give them.

    For folders with many tests that start workers: import it in their conftest.py. Workers are started as users do in
    tests/runtime/test_launch.py, tests/runtime/test_parent.py and tests/score/test_processes.py (torchrun), and the
    command in tests/cli/test_failures.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_run", run_forked_workers)
        yield


def _call(
    output: Path,
    environment: dict[str, str],
    folder: Path,
    function: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with output.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    result = function(*arguments)
    sys.exit(result if isinstance(result, int) else 0)
