"""Division of a kernel's work among threads. Every element is computed by one thread, so bits do not depend on it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

LEAST_WORK = 4_000_000
"""Multiplications for which a second thread pays: about 60 us on one core, and a thread takes 20 us to start."""


class WorkerThreads:
    """As many threads as torch uses (`torch.get_num_threads`). Kernels run in parallel because they release the GIL."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self.count) if self.count > 1 else None

    def run(self, task: Callable[[int, int], None], count: int, work: int) -> None:
        """Call task(first, last) for ranges that cover `count` items. work: multiplications of all of them."""
        parts = min(self.count, count)
        if self._pool is None or work < LEAST_WORK or parts < 2:
            task(0, count)
            return
        cuts = [count * i // parts for i in range(parts + 1)]
        for done in [self._pool.submit(task, *ends) for ends in pairwise(cuts)]:
            done.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown()
