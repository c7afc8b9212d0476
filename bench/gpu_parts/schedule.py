"""Parts one after another, each in a process of its own with a time limit; a failure ends one part and no other."""

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

from gpu_parts.job import Job
from gpu_parts.lines import Lines, last_lines

GRACE = 3.0  # seconds between SIGTERM and SIGKILL
POLL = 0.1


class Part(NamedTuple):
    """A part's name and its weight: how the seconds that are left are shared by this part and those after it."""

    name: str
    weight: float


class Stopped(Exception):
    """SIGTERM or SIGINT came."""


Command = Callable[[Part, float], Sequence[str]]  # (part, its limit in seconds) -> what to run


def run_parts(
    parts: Sequence[Part], command: Command, job: Job, seconds: float, environment: Mapping[str, str]
) -> dict[str, str]:
    """Run the parts in order; returns part -> why it failed, "" where it did not. Every failure is also a line.

    Raises `Stopped` on SIGTERM and SIGINT, the running part's processes ended and a line written.
    """
    end, outcomes = time.monotonic() + seconds, dict[str, str]()
    for i, part in enumerate(parts):
        left = end - time.monotonic()
        limit = left * part.weight / sum(p.weight for p in parts[i:])
        say(f"{part.name}: at most {limit:.0f} s of {left:.0f} s left")
        lines = Lines(job, part.name)
        try:
            outcomes[part.name] = run_part(command(part, limit), limit, job, part.name, environment)
        except Stopped as stopped:
            lines.add("failed", reason=str(stopped))
            raise
        if outcomes[part.name]:
            lines.add("failed", reason=outcomes[part.name], limit=round(limit, 1))
        say(f"{part.name}: {outcomes[part.name] or 'done'}, {time.monotonic() - lines.started:.1f} s")
    return outcomes


def run_part(command: Sequence[str], limit: float, job: Job, name: str, environment: Mapping[str, str]) -> str:
    """Run a command until it ends or its limit is over; returns why it failed, or "". Its output goes to NAME.log."""
    log = job.folder / f"{name}.log"
    with log.open("wb") as output, _signals():
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
        try:
            over = _wait(process, limit, job.results)
        finally:
            _end(process)
    if over:
        return f"time limit of {limit:.1f} s reached; {last_lines(log)}"
    if process.returncode < 0:
        return f"ended by signal {-process.returncode}; {last_lines(log)}"
    return last_lines(log) if process.returncode else ""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _wait(process: subprocess.Popen[bytes], limit: float, results: Path) -> bool:
    """Wait for a process, showing the results that come; whether its limit was over first."""
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
    """Show the whole lines after this byte, in short; returns where the next one begins."""
    if not results.exists():
        return start
    with results.open("rb") as file:
        file.seek(start)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in map(json.loads, whole.splitlines()):
        values = {k: v for k, v in line.items() if isinstance(v, int | float) and k != "toy"}
        say(f"  {line['part']}, {line['what']}: {', '.join(f'{k} {v}' for k, v in values.items())}")
    return start + len(whole)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started (they share its process group)."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Stopped` meanwhile."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    old = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
