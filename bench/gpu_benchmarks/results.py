"""Results as JSON lines; each is written to disk before the next measurement starts."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from gpu_benchmarks.job import BenchmarkJob


class ResultsWriter:
    """Appends the lines of one benchmark to the job's results.

    Every line has benchmark, measurement, recipe, hash, seconds, device, versions, commit and toy.
    """

    def __init__(self, job: BenchmarkJob, benchmark: str) -> None:
        self.job, self.benchmark, self.started = job, benchmark, time.monotonic()

    def add(self, measurement: str, *, recipe: str | None = None, digest: str | None = None, **fields: Any) -> None:
        """Write a line with these fields.

        recipe, digest: name and hash of the measured recipe. `seconds` is the time since the benchmark started.
        """
        seconds = round(time.monotonic() - self.started, 2)
        named = {"recipe": recipe, "hash": digest, "seconds": seconds}
        origin = {**read_machine(self.job.machine), "commit": self.job.commit or None, "toy": self.job.toy}
        line = {"benchmark": self.benchmark, "measurement": measurement, **named, **fields, **origin}
        with self.job.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_machine(path: Path) -> dict[str, Any]:
    """Device and versions, as written by the benchmark `prepare`; None values before it ran."""
    return json.loads(path.read_text()) if path.exists() else {"device": None, "versions": None}


def read_results(path: Path) -> list[dict[str, Any]]:
    """All lines of a results file; empty if it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def one_line(error: Exception) -> str:
    """Type and message of an error on one line of at most 400 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def tail(log: Path, count: int = 1) -> str:
    """The last `count` non-empty lines of a log, joined to one; of a traceback, that is the error."""
    written = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(written[-count:])[:500] or "the log is empty"
