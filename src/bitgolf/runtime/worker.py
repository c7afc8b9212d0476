"""One worker process: `python -m bitgolf.runtime.worker FOLDER` does the job in a folder and leaves its result there.

`runtime.launch` starts it, alone or under torchrun. Then each process does the job, and the first writes the result.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bitgolf.errors import BitgolfError, Interrupted
from bitgolf.runtime.job_files import read_job, write_error, write_result
from bitgolf.runtime.openmp import limit_spinning


def main(folder: Path) -> int:
    """Returns the exit status. Alone, the error of a job is left for the process that started it; under torchrun every
    process prints its own, and an interruption only the first."""
    limit_spinning()
    rank = os.environ.get("RANK")
    try:
        function, job = read_job(folder)
        result = function(job)
    except BitgolfError as error:
        if rank is None:
            write_error(folder, error)
        elif rank == "0" or not isinstance(error, Interrupted):
            print(f"process {rank}: {error}" if rank != "0" else error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code
    if rank in (None, "0"):
        write_result(folder, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
