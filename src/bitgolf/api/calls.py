"""What every call of the Python interface does for the program that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bitgolf.errors import Interrupted, describe_os_error
from bitgolf.report.display import QuietDisplay, open_display, shown_on


@contextmanager
def library_call(*, progress: bool) -> Iterator[None]:
    """Run a function of the command line within another program.

    progress: whether messages and progress are shown on standard error, with a clock that starts here. The random state of torch is restored afterwards. Errors
    of the system become `BitgolfError`. An interrupt is raised as `KeyboardInterrupt`, which handlers of errors let
    pass, also where the command line ends with an error because training has saved its state.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with shown_on(open_display() if progress else QuietDisplay()), torch.random.fork_rng(gpus):
        try:
            yield
        except Interrupted as error:
            raise KeyboardInterrupt(f"{error.message}; resume=True continues a training") from error
        except OSError as error:
            raise describe_os_error(error) from error
