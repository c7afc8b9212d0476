"""N worker processes under torchrun: `python -m bitgolf.runtime.torchrun FOLDER N` runs the job in a folder.

torchrun's own program prints a traceback of itself if a worker fails. This one writes the cause to the folder, for the
process that started it: the error of a worker, or the signal that ended one. Only the traceback of an unexpected
exception in a worker is printed.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from bitgolf.runtime.job_files import read_error, write_error
from bitgolf.runtime.parent import end_with_launcher
from bitgolf.runtime.worker import TRACEBACKS
from bitgolf.runtime.worker_process import killed_by


def main(folder: Path, processes: int) -> int:
    """Run the job in `processes` workers and return the exit status."""
    logging.disable(logging.CRITICAL)  # torchrun logs each failure at length; `_report` has what users need
    arguments = ["--standalone", f"--nproc-per-node={processes}", "-m", "bitgolf.runtime.worker", str(folder)]
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as failed:
        _report(folder, {rank: failure.exitcode for rank, failure in failed.failures.items()}, processes)
        return 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


def _report(folder: Path, statuses: dict[int, int], processes: int) -> None:
    """Write the cause of a failure to the folder, unless a worker did. statuses: rank -> exit status of the failed."""
    if read_error(folder):
        return
    killed = {rank: -status for rank, status in statuses.items() if status < 0 and -status != signal.SIGTERM}
    for rank, number in sorted(killed.items()):
        write_error(folder, killed_by(rank, processes, number))
        return
    for file in sorted(folder.glob(TRACEBACKS), key=lambda file: file.stat().st_mtime_ns)[:1]:
        print(file.read_text(), file=sys.stderr)


if __name__ == "__main__":
    end_with_launcher(Path(sys.argv[1]))
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
