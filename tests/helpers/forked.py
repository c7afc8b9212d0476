"""Processes forked from a server that has imported torch and this package, so that each starts without these imports.

They share nothing else with the tests: what a test does after the server has started does not reach them.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

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


def run_forked(
    function: Callable[..., object],
    *arguments: object,
    environment: Mapping[str, str] = MappingProxyType({}),
    seconds: float = 150,
) -> Finished:
    """Call a module-level function in a process of its own, with the folder and the environment variables of this one.

    An integer that it returns is the exit status. environment: more variables; torch has read its own already.
    Fails if the process is still running after `seconds`.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        given = (output, {**os.environ, **environment}, Path.cwd(), function, arguments)
        process = fork_server().Process(target=_call, args=given)
        process.start()
        process.join(seconds)
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
        process.close()
        text = output.read_text(errors="replace") if output.exists() else ""
    assert status is not None, f"still running after {seconds} s:\n{text}"
    return Finished(status, text)


def run_script(file: str, arguments: Sequence[str]) -> None:
    """Run a file as `python FILE ARGUMENTS` would. Module-level, for `run_forked`."""
    sys.argv = [file, *arguments]
    runpy.run_path(file, run_name="__main__")


@pytest.fixture(scope="module", autouse=True)
def forked_workers() -> Iterator[None]:
    """`run_worker` forks single workers from the server; several run under torchrun, as always.

    For folders with many tests that start workers: import it in their conftest.py. tests/runtime/test_launch.py, and
    the command in a process of its own in tests/pipeline/test_pipeline.py, start workers as users do.
    """
    started = launch._run

    def run(command: list[str], log: Callable[[str], None] | None) -> launch.Ended:
        if command[1:-1] != list(launch.WORKER):
            return started(command, log)
        done = run_forked(worker.main, Path(command[-1]))
        if log is None:
            os.write(launch.STANDARD_ERROR, done.output.encode())
            return launch.Ended(done.status, False, [])
        lines = done.output.splitlines()
        for line in lines:
            log(line)
        return launch.Ended(done.status, False, lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "_run", run)
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
