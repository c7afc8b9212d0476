"""A worker process: `python -m bitgolf.runtime.worker FOLDER` runs the job in a folder and writes the result there.

`runtime.launch` starts one worker, or several under torchrun. Then all run the job, and rank 0 writes the result.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from bitgolf.errors import BitgolfError, Interrupted
from bitgolf.report.failures import describe
from bitgolf.report.worker_display import shown_by_starter
from bitgolf.runtime.job_files import read_error, read_job, write_error, write_result
from bitgolf.runtime.openmp import limit_spinning
from bitgolf.runtime.parent import end_with_launcher

TRACEBACKS = "traceback.*.txt"
"""Pattern of the files with the traceback of an unexpected exception, one for each process under torchrun."""


def main(folder: Path) -> int:
    """Run the job and return the exit status.

    A worker writes its error to the folder, for the process that started it; of several, the first to fail. Under
    torchrun `Interrupted` is printed instead, by rank 0 only. The traceback of an unexpected exception goes to a file;
    that of one of several processes is kept in the folder, as it may only be the consequence of another process's end.
    """
    limit_spinning()
    rank = os.environ.get("RANK")
    try:
        function, job = read_job(folder)
        with shown_by_starter(folder):
            result = function(job)
    except BitgolfError as error:
        _report(folder, error, rank)
        return error.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code
    except Exception as error:
        if rank is None:
            described = describe(error)
            write_error(folder, described)
            return described.exit_code
        (folder / TRACEBACKS.replace("*", rank)).write_text(traceback.format_exc())
        return 1
    if rank in (None, "0"):
        write_result(folder, result)
    return 0


def _report(folder: Path, error: BitgolfError, rank: str | None) -> None:
    """Write an error to the folder, or print it; see `main`."""
    if rank is None:
        write_error(folder, error)
    elif read_error(folder):
        return
    elif not isinstance(error, Interrupted):
        error.message = error.message if rank == "0" else f"rank {rank}: {error.message}"
        write_error(folder, error)
    elif rank == "0":
        print(error, file=sys.stderr)


if __name__ == "__main__":
    end_with_launcher(Path(sys.argv[1]))
    sys.exit(main(Path(sys.argv[1])))
