"""Threads for coders. The compressors, the range coder and numpy hold no lock of the interpreter while they work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cpu_count() -> int:
    """The CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results in the order of the items, worked out side by side; the first error in that order is raised."""
    items = list(items)
    if len(items) < 2 or cpu_count() == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(len(items), cpu_count())) as pool:
        return list(pool.map(work, items))
