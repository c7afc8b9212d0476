"""What every call of the Python interface does for the program that makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from bitgolf.errors import Interrupted, describe_os_error
from bitgolf.report.display import QuietDisplay, open_display, shown_on


@contextmanager
def library_call(*, progress: bool) -> Iterator[None]:
    """Run a function of the command line within another program.

    progress: whether messages and progress are shown on standard error, with a clock that starts here.
    The random state of torch is restored afterwards. Errors of the system become `BitgolfError`. An interrupt is raised
    as `KeyboardInterrupt`, which handlers of errors let pass, also where the command line ends with an error because
    training has saved its state.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    display = open_display() if progress else QuietDisplay()
    with shown_on(display), torch.random.fork_rng(gpus), torch_defaults():
        try:
            yield
        except Interrupted as error:
            raise KeyboardInterrupt(f"{error.message}; resume=True continues a training") from error
        except OSError as error:
            raise describe_os_error(error) from error


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Give torch the defaults that it has in the command line, whatever the program has chosen, and restore its choice.

    They are float32, the CPU as default device, gradients enabled, and neither inference mode nor autocast.
    """
    dtype, elsewhere = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    autocasts = [torch.autocast(kind, enabled=False) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as settings:
            for setting in [torch.inference_mode(False), torch.enable_grad(), *autocasts]:
                settings.enter_context(setting)
            if elsewhere:  # otherwise it would cost time in each function of torch
                settings.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)
