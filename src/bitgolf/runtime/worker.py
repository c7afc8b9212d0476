"""A worker process: `python -m bitgolf.runtime.worker FOLDER` runs the job in a folder and writes the result there.

`runtime.launch` starts one worker, or several under torchrun. Then all run the job, and rank 0 writes the result.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bitgolf.errors import Interrupted
from bitgolf.report.failures import describe
from bitgolf.runtime.job_files import read_job, write_error, write_result
from bitgolf.runtime.openmp import limit_spinning


def main(folder: Path) -> int:
    """Run the job and return the exit status.

    A single worker writes its error to the folder, for the process that started it. Under torchrun each process prints
    its error; `Interrupted` is printed by rank 0 only. The traceback of an unexpected exception goes to a file.
    """
    limit_spinning()
    rank = os.environ.get("RANK")
    try:
        function, job = read_job(folder)
        result = function(job)
    except Exception as error:
        described = describe(error)
        if rank is None:
            write_error(folder, described)
        elif rank == "0" or not isinstance(error, Interrupted):
            print(f"rank {rank}: {described}" if rank != "0" else described, file=sys.stderr)
        return described.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code
    if rank in (None, "0"):
        write_result(folder, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
