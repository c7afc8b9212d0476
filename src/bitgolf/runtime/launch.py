"""Starting several processes of a stage on this host, under torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from bitgolf.errors import BitgolfError, Interrupted


def launch(
    processes: int, module: str, *arguments: str, folder: Path, stage: str = "training", again: str = "--resume"
) -> None:
    """N processes of `python -m module arguments`, for a run in `folder`. A signal to us is passed on, and waited for.

    `stage` and `again` (the option that goes on with it) are for messages. Raises `Interrupted` where a signal stopped
    them, `BitgolfError` where one failed.
    """
    worker = ["-m", module, *arguments]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *worker]
    caught: list[int] = []
    with subprocess.Popen(command) as torchrun:

        def pass_on(number: int, frame: FrameType | None) -> None:
            caught.append(number)
            torchrun.send_signal(number)

        old = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = torchrun.wait()
        finally:
            for s, handler in old.items():
                signal.signal(s, handler)
    if caught:
        raise Interrupted(f"{stage} was stopped by a signal", place=str(folder), mend=f"go on with {again}")
    if code:
        cause = f"{stage} on {processes} processes failed"
        raise BitgolfError(cause, place=str(folder), mend="see run.log and the messages above")
