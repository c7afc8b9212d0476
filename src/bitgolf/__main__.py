"""Entry point of the program `bitgolf` and of `python -m bitgolf`."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Import and run the command line. An interrupt during the import ends the program like any other."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # an exception could be lost in the import of a package that catches all of them
        signal.signal(signal.SIGINT, _end)
    from bitgolf.cli import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _end(number: int, frame: FrameType | None) -> None:
    os.write(sys.stderr.fileno(), b"bitgolf: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
