"""Starting several training processes on this host, under torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from bitgolf.errors import BitgolfError
from bitgolf.train.loop import Interrupted


def launch(processes: int, folder: Path, data: Path, *, seed: int, resume: bool) -> None:
    """Train with N processes; each finds the recipe in `folder`. A signal to us is passed on, and waited for.

    Raises `Interrupted` where a signal stopped them (their state is saved), `BitgolfError` where one failed.
    """
    worker = ["-m", "bitgolf.train.worker", str(folder), str(data), str(seed), str(int(resume))]
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
        raise Interrupted("training was stopped by a signal", place=str(folder), mend="go on with --resume")
    if code:
        cause = f"training on {processes} processes failed"
        raise BitgolfError(cause, place=str(folder), mend="see run.log and the messages above")
