"""Handling of SIGINT and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def signals_to(handle: Callable[[int], object]) -> Iterator[None]:
    """Within the block, call `handle(signal number)` on SIGINT and SIGTERM; then restore the previous handlers.

    Outside the main thread this has no effect, since Python sets handlers in the main thread only.
    """
    try:
        old = {s: signal.signal(s, lambda number, frame: handle(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
