"""Run benchmarks one after another, each in its own process with a time limit. A failure ends only its benchmark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from gpu_benchmarks.job import BenchmarkJob
from gpu_benchmarks.results import ResultsWriter, tail

GRACE = 3.0  # seconds between SIGTERM and SIGKILL
POLL = 0.1  # seconds


class Benchmark(NamedTuple):
    """Name and weight of a benchmark.

    Its time limit is its share, by weight, of the seconds left for it and all later benchmarks.
    """

    name: str
    weight: float


class BenchmarkInterrupted(Exception):
    """Raised on SIGTERM and SIGINT."""


Command = Callable[[Benchmark, float], Sequence[str]]  # (benchmark, limit in seconds) -> command line


def run_benchmarks(
    benchmarks: Sequence[Benchmark], command: Command, job: BenchmarkJob, seconds: float, environment: Mapping[str, str]
) -> dict[str, str]:
    """Run the benchmarks in order; returns benchmark -> reason of its failure, "" if it succeeded.

    A line of results is written for each failure. On SIGTERM and SIGINT, the processes of the running benchmark are
    ended, a line is written, and `BenchmarkInterrupted` is raised.
    """
    end, outcomes = time.monotonic() + seconds, dict[str, str]()
    for i, benchmark in enumerate(benchmarks):
        left = end - time.monotonic()
        limit = left * benchmark.weight / sum(b.weight for b in benchmarks[i:])
        log(f"{benchmark.name}: at most {limit:.0f} s of {left:.0f} s left")
        results = ResultsWriter(job, benchmark.name)
        try:
            outcomes[benchmark.name] = run_benchmark(command(benchmark, limit), limit, job, benchmark.name, environment)
        except BenchmarkInterrupted as stopped:
            results.add("failed", reason=str(stopped))
            raise
        if outcomes[benchmark.name]:
            results.add("failed", reason=outcomes[benchmark.name], limit=round(limit, 1))
        log(f"{benchmark.name}: {outcomes[benchmark.name] or 'done'}, {time.monotonic() - results.started:.1f} s")
    return outcomes


def run_benchmark(
    command: Sequence[str], limit: float, job: BenchmarkJob, name: str, environment: Mapping[str, str]
) -> str:
    """Run a command for at most `limit` seconds; returns the reason of its failure, or "". Output goes to NAME.log."""
    log_file = job.folder / f"{name}.log"
    with log_file.open("wb") as output, _signals():
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
        try:
            over = _wait(process, limit, job.results)
        finally:
            _end(process)
    if over:
        return f"time limit of {limit:.1f} s reached; {tail(log_file)}"
    if process.returncode < 0:
        return f"ended by signal {-process.returncode}; {tail(log_file)}"
    return tail(log_file) if process.returncode else ""


def log(message: str) -> None:
    """Print a line to standard error."""
    print(message, file=sys.stderr, flush=True)


def _wait(process: subprocess.Popen[bytes], limit: float, results: Path) -> bool:
    """Wait for a process, printing new results; returns whether the limit was reached first."""
    end, shown = time.monotonic() + limit, results.stat().st_size if results.exists() else 0
    while True:
        ended = process.poll() is not None
        shown = _show(results, shown)
        if ended:
            return False
        if time.monotonic() >= end:
            return True
        time.sleep(POLL)


def _show(results: Path, start: int) -> int:
    """Print the complete lines of results after byte `start`, shortened; returns the start of the next line."""
    if not results.exists():
        return start
    with results.open("rb") as file:
        file.seek(start)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in map(json.loads, whole.splitlines()):
        values = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "toy"}
        log(f"  {line['benchmark']}, {line['measurement']}: {', '.join(f'{k} {v}' for k, v in values.items())}")
    return start + len(whole)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, which share its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


@contextmanager
def _signals() -> Iterator[None]:
    """Context in which SIGTERM and SIGINT raise `BenchmarkInterrupted`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise BenchmarkInterrupted(f"stopped by {signal.Signals(number).name}")

    old = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
