"""One part, in this process: `python -m gpu_parts PART JOB.json LIMIT`."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from gpu_parts.job import load
from gpu_parts.lines import Lines, one_line

MODULES = {"tests": "gpu_tests", "run": "full_run"}  # whose names are not their part's


def main(part: str, path: str, limit: str) -> int:
    """Measure; returns the exit status. The last line that a failure leaves says why."""
    job = replace(load(Path(path)), deadline=time.time() + float(limit))
    try:
        importlib.import_module(f"gpu_parts.{MODULES.get(part, part)}").measure(job, Lines(job, part))
    except Exception as error:
        traceback.print_exc()
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
