"""Results as JSON lines: each is on the disk before the next measurement begins."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from gpu_benchmarks.job import BenchmarkJob


class ResultsWriter:
    """Appends the lines of one benchmark. Every line has benchmark, measurement, device, versions, commit, recipe, hash and seconds."""

    def __init__(self, job: BenchmarkJob, benchmark: str) -> None:
        self.job, self.benchmark, self.started = job, benchmark, time.monotonic()

    def add(self, measurement: str, *, recipe: str | None = None, digest: str | None = None, **fields: Any) -> None:
        """Write a line. recipe, digest: the recipe that was measured and its hash; seconds: since the benchmark began."""
        seconds = round(time.monotonic() - self.started, 2)
        named = {"recipe": recipe, "hash": digest, "seconds": seconds}
        origin = {**read_machine(self.job.machine), "commit": self.job.commit or None, "toy": self.job.toy}
        line = {"benchmark": self.benchmark, "measurement": measurement, **named, **fields, **origin}
        with self.job.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_machine(path: Path) -> dict[str, Any]:
    """Device and versions; nulls before the benchmark `prepare` has found them."""
    return json.loads(path.read_text()) if path.exists() else {"device": None, "versions": None}


def read_results(path: Path) -> list[dict[str, Any]]:
    """All lines of a file of results."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def one_line(error: Exception) -> str:
    """An error's type and message on one line, cut at 400 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def tail(log: Path, count: int = 1) -> str:
    """The last lines of a log that are not empty, as one: of a traceback the error."""
    written = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(written[-count:])[:500] or "it wrote nothing"
