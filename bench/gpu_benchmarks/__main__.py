"""Run one benchmark in this process: `python -m gpu_benchmarks BENCHMARK JOB.json TIME_LIMIT` (in seconds)."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from gpu_benchmarks.job import load
from gpu_benchmarks.results import ResultsWriter, one_line


def main(benchmark: str, path: str, limit: str) -> int:
    """Run a benchmark; returns the exit status. After a failure, the last line on standard error is the reason."""
    job = replace(load(Path(path)), deadline=time.time() + float(limit))
    try:
        importlib.import_module(f"gpu_benchmarks.{benchmark}").measure(job, ResultsWriter(job, benchmark))
    except Exception as error:
        traceback.print_exc()
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
