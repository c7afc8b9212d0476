"""Run a function in worker processes: in one, in N under torchrun on this host, or in those of a group of hosts."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bitgolf.errors import BitgolfError, Interrupted, Stopped
from bitgolf.report.display import current_display
from bitgolf.report.observers import StopRequest
from bitgolf.report.worker_display import showing_workers
from bitgolf.runtime.hosts.group import current_group
from bitgolf.runtime.hosts.inputs import HostInputs
from bitgolf.runtime.job_files import read_error, read_result, write_job
from bitgolf.runtime.parent import launcher_lock
from bitgolf.runtime.worker_process import Ended, WorkerProcess

Job = TypeVar("Job")
Result = TypeVar("Result")
LAST_LINES = 4
"""Lines of a failed worker that its error quotes, as with --quiet nothing else shows them."""


def run_worker(
    function: Callable[[Job], Result],
    job: Job,
    *,
    task: str,
    where: Path,
    processes: int = 1,
    resume_option: str = "the same command",
    stop: StopRequest | None = None,
    inputs: Callable[[], HostInputs] = HostInputs,
) -> Result:
    """Run `function(job)` in a worker process, or in N processes under torchrun, and return the result of rank 0.

    If this process leads a group of N processes on one or more hosts, each of them starts one of the N workers.

    function: a module-level function of this package with one annotated parameter; see `job_files` for its types.
    task, where, resume_option: for messages: what is done, the file or folder concerned, and how to continue it.
    inputs: returns the files that the workers read; it is called only if there are other hosts.

    The messages and the progress of the workers are shown on the display of this process, and so is what they print.
    SIGINT and SIGTERM are forwarded to the workers; when these have ended, `Interrupted` is raised. If this process is
    killed, the workers end too. stop: a request on which SIGTERM is sent to the workers; if it ends them, `Stopped` is
    raised. Raises the job's own error if a worker failed with one, and `BitgolfError` otherwise.
    """
    stop = stop or StopRequest()
    with tempfile.TemporaryDirectory(prefix="bitgolf-job-") as name:
        folder = Path(name)
        write_job(folder, function, job)
        with launcher_lock(folder), showing_workers(folder, current_display()):
            ended = _run_job(folder, processes, inputs, stop)
        if ended.signalled and not stop.reason:
            hint = f"continue with {resume_option}"
            raise Interrupted(f"{task} was stopped by a signal", where=str(where), hint=hint)
        if ended.status:
            error = read_error(folder)
            if stop.reason and (error is None or error.exit_code == Interrupted.exit_code):
                raise Stopped(f"during {task}", stop.reason, where=str(where), hint=f"{resume_option} continues")
            raise _located(error, task, where, resume_option) or _failure(task, where, processes, ended)
        return read_result(folder, function)


def _run_job(folder: Path, processes: int, inputs: Callable[[], HostInputs], stop: StopRequest) -> Ended:
    """Run the job in a folder, on the processes of the group if there is one."""
    group = current_group() if processes > 1 else None
    if group is None:
        return _run([sys.executable, *_program(str(folder), processes)], stop)
    with stop.calling(group.terminate):
        return group.run(folder, inputs)


def _program(folder: str, processes: int) -> list[str]:
    """Arguments of Python that run the job in a folder."""
    if processes == 1:
        return ["-m", "bitgolf.runtime.worker", folder]
    return ["-m", "bitgolf.runtime.torchrun", folder, str(processes)]


def _located(error: BitgolfError | None, task: str, where: Path, resume_option: str) -> BitgolfError | None:
    """The error of a worker. One that has no location gets the task, its file or folder, and how to continue."""
    if error and not error.where:
        error.message, error.where = f"{task} failed: {error.message}", str(where)
        error.hint = error.hint or f"continue with {resume_option}"
    return error


def _run(command: list[str], stop: StopRequest) -> Ended:
    """Run a command until it ends. Signals are forwarded to it, and a request to stop sends it SIGTERM."""
    process = WorkerProcess(command)
    with process.forwarding_signals() as caught, stop.calling(lambda: process.send_signal(signal.SIGTERM)):
        status, lines = process.wait()
    return Ended(status, bool(caught), lines)


def _failure(task: str, where: Path, processes: int, ended: Ended) -> BitgolfError:
    worker = f"torchrun with {processes} processes" if processes > 1 else "the worker process"
    printed = "".join(f"\n  {line}" for line in ended.lines[-LAST_LINES:])
    message = f"{task} failed: {worker} ended with exit status {ended.status}{printed and ' after printing'}{printed}"
    return BitgolfError(message, where=str(where), hint="see the messages above, and run.log if this is a run folder")
