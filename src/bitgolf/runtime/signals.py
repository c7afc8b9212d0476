"""Handling SIGINT and SIGTERM for the time of a block."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def signals_to(handle: Callable[[int], object]) -> Iterator[None]:
    """`handle(number)` for SIGINT and SIGTERM within the block; outside a main thread nothing is changed."""
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
