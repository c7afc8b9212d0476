"""Blocks of a file that are coded at a time, in threads, and their common progress.

Torch and numba release the interpreter lock. The bytes do not depend on the number of threads, since each block is
coded on one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import TypeVar

import torch

from bitgolf.errors import Interrupted
from bitgolf.runtime.threads import single_threaded
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.coding.open_predictor import has_plain_windows
from bitgolf.score.methods import ScoringMethod

Item = TypeVar("Item")
Result = TypeVar("Result")
ByteProgress = Callable[[int, float], None]
"""Called with the bytes of the file that are done and their bits so far."""


def no_progress(done: int, bits: float) -> None:
    """Report nothing."""


def can_share_model(method: ScoringMethod) -> bool:
    """Whether several threads may code with one model at a time: a method that learns changes it."""
    return has_plain_windows(method)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, stop: Callable[[], None]
) -> Iterator[Result]:
    """Yield function(item) for each item, in order; `threads` items are processed at a time, and no more are read.

    stop: called if the caller gives up, so that the functions that still run end.
    """
    if threads < 2:
        yield from map(function, items)
        return
    pending = deque[Future[Result]]()
    with single_threaded(), ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) == threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class SharedProgress:
    """Sums the progress of blocks that are coded at a time."""

    def __init__(self, report: ByteProgress) -> None:
        self._report, self._lock, self._stopped = report, Lock(), False
        self._done, self._bits = 0, 0.0  # of complete blocks
        self._open = dict[int, tuple[int, float]]()  # of each block that is being coded

    def of_block(self, size: int) -> ProgressCallback:
        """The callback of a block of `size` bytes. It raises `Interrupted` after `stop`."""
        key = object()

        def report(tokens: int, count: int, bits: float) -> None:
            if self._stopped:
                raise Interrupted("coding was stopped")
            self._update(id(key), size * tokens // max(count, 1) if tokens < count else 0, bits)

        return report

    def finish(self, size: int, bits: float) -> None:
        """A block of `size` bytes is complete."""
        with self._lock:
            self._done, self._bits = self._done + size, self._bits + bits
        self._update(0, 0, 0.0)

    def stop(self) -> None:
        """Let every block that is being coded end with an error."""
        self._stopped = True

    def _update(self, block: int, size: int, bits: float) -> None:
        """Report all bytes; a block of which none are left is forgotten."""
        with self._lock:
            if size:
                self._open[block] = size, bits
            else:
                self._open.pop(block, None)
            done = self._done + sum(size for size, _ in self._open.values())
            self._report(done, self._bits + sum(bits for _, bits in self._open.values()))
