"""Processes that end with the one that started them, also if that is killed and can tell them nothing."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "launcher.lock"
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextmanager
def launcher_lock(folder: Path) -> Iterator[None]:
    """Hold a lock on a file in `folder` for the duration of a block; the system releases it if this process ends.

    A lock identifies the process, unlike its id, which another process may get later.
    """
    with (folder / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def end_with_launcher(folder: Path) -> None:
    """End this process when the one that holds the `launcher_lock` of `folder` ends, or its direct parent.

    The direct parent may be torchrun, which can be killed alone. Linux sends a signal at its death.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if (folder / LOCK).exists():
        exit_after(lambda: _wait_for_lock(folder / LOCK))


def exit_after(wait: Callable[[], object]) -> None:
    """Call `wait` in a thread, and end this process at once when it returns. Files are written atomically."""
    threading.Thread(target=lambda: (wait(), os._exit(1)), daemon=True).start()


def _wait_for_lock(path: Path) -> None:
    with path.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
