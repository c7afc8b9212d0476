"""Running a function in worker processes on this host: in one of its own, or in N of them under torchrun."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bitgolf.errors import BitgolfError, Interrupted
from bitgolf.runtime.job_files import read_error, read_result, write_job
from bitgolf.runtime.signals import signals_to

Job = TypeVar("Job")
Result = TypeVar("Result")
WORKER = ("-m", "bitgolf.runtime.worker")
STANDARD_ERROR = 2


class Ended(NamedTuple):
    """How a process ended: its exit status, whether a signal to this process was passed on to it, and the lines of its
    standard error, where they were read."""

    status: int
    signalled: bool
    lines: list[str]


def run_worker(
    function: Callable[[Job], Result],
    job: Job,
    *,
    task: str,
    where: Path,
    processes: int = 1,
    resume_option: str = "the same command",
    log: Callable[[str], None] | None = None,
) -> Result:
    """What `function(job)` returns in a process of its own, or in the first of N under torchrun.

    function: of a module of this package, with one annotated parameter; see `job_files` for what may stand in a job.
    task, where, resume_option: for messages: what is done, to which file or folder, and the option that goes on with it.
    tell: is given the workers' lines of standard error; None leaves them on that of this process.
    A signal to this process is passed on, and waited for: raises `Interrupted`. Raises the error of a job that failed in a
    process of its own, and `BitgolfError` where one of several failed.
    """
    with tempfile.TemporaryDirectory(prefix="bitgolf-job-") as name:
        folder = Path(name)
        write_job(folder, function, job)
        ended = _run([sys.executable, *_torchrun(processes), *WORKER, name], log)
        if ended.signalled:
            raise Interrupted(f"{task} was stopped by a signal", where=str(where), hint=f"go on with {resume_option}")
        if ended.status:
            raise read_error(folder) or _failure(task, where, processes, ended)
        return read_result(folder, function)


def _torchrun(processes: int) -> list[str]:
    if processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def _run(command: list[str], log: Callable[[str], None] | None) -> Ended:
    """Standard output belongs to the result of this process, so the workers write to standard error only."""
    lines = list[str]()
    stderr = subprocess.PIPE if log else None
    with (
        subprocess.Popen(command, stdout=STANDARD_ERROR, stderr=stderr, text=True) as process,
        _signals_passed_on(process) as caught,
    ):
        if log and process.stderr:
            for line in process.stderr:
                lines.append(line.rstrip())
                log(lines[-1])
        status = process.wait()
    return Ended(status, bool(caught), lines)


@contextmanager
def _signals_passed_on(process: subprocess.Popen[Any]) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to `process`; yields those that came. Outside a main thread nothing is changed."""
    caught: list[int] = []

    def pass_on(number: int) -> None:
        caught.append(number)
        process.send_signal(number)

    with signals_to(pass_on):
        yield caught


def _failure(task: str, where: Path, processes: int, ended: Ended) -> BitgolfError:
    said = "\n".join(ended.lines[-4:])
    if said:
        return BitgolfError(f"{task} failed: {said}", where=str(where))
    count = f" on {processes} processes" if processes > 1 else f" in a process of its own (exit status {ended.status})"
    hint = "see the messages above and, of a run, its run.log"
    return BitgolfError(f"{task} failed{count}", where=str(where), hint=hint)
