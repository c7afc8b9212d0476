"""Threads for coders. The compressors, the range coder and numpy release the interpreter lock (GIL) while they work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cpu_count() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply `work` to all items in threads. Returns the results in order; raises the error of the first failed item."""
    items = list(items)
    if len(items) < 2 or cpu_count() == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(len(items), cpu_count())) as pool:
        return list(pool.map(work, items))
