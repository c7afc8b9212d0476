"""What one pass of encoding shares: the device, the threads that work on matrices, the factors of Hessians."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

from bitgolf.quantize.stats import FactorCache, MatrixStats, StatsByPath, identity_stats

T = TypeVar("T")
R = TypeVar("R")


class EncodingSession:
    """Owned by whoever encodes: for one pass over a model, or for all probes of a search for a size.

    workers: threads, each with one thread of torch's; None: as many as torch would use. Codes do not depend on it.
    device: where codecs work; None: the CPU. It also stands for a device without float64 (MPS): Hessians are factored in it.
    remark: all that, for the log.
    """

    def __init__(self, workers: int | None = None, device: torch.device | None = None) -> None:
        wanted, cpu = device or torch.device("cpu"), torch.device("cpu")
        self.device = wanted if wanted.type in ("cpu", "cuda") else cpu
        self.workers = workers or torch.get_num_threads()
        said = "as set" if workers else "as many as torch has"
        unable = "" if self.device == wanted else f" ({wanted} has no float64)"
        self.description = f"encoding on {self.device}{unable}, {self.workers} threads ({said})"
        self._flat: dict[int, FactorCache] = {}  # by width

    def to_device(self, stats: StatsByPath) -> dict[str, MatrixStats]:
        """The statistics on the device, with a cache for each distinct Hessian. Placed statistics come back as they are, so
        whoever encodes more than once places them once, and nothing is factored twice."""
        caches, found = dict[int, FactorCache](), dict[str, MatrixStats]()
        for path, known in stats.items():
            if known.cache and known.cache.hessian is known.hessian and known.hessian.device.type == self.device.type:
                found[path] = known
                continue
            if id(known.hessian) not in caches:
                caches[id(known.hessian)] = FactorCache(known.hessian.to(self.device))
            cache = caches[id(known.hessian)]
            found[path] = MatrixStats(cache.hessian, known.output_fisher.to(self.device), known.tokens, cache)
        return found

    def identity_stats(self, rows: int, columns: int) -> MatrixStats:
        """Statistics that prefer nothing (`stats.identity_stats`), with one Hessian for all matrices of this width."""
        known = identity_stats(rows, columns)
        cache = self._flat.setdefault(columns, FactorCache(known.hessian))
        return known._replace(hessian=cache.hessian, cache=cache)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results in the order of the items, as they come. The work itself must not call `map`.

        Torch works with one thread on each item, however many workers there are: sums in another order would be other
        codes.
        """
        items = list(items)
        if self.workers == 1 or len(items) < 2:
            for item in items:
                with single_threaded():
                    result = work(item)
                yield result
            return
        with ThreadPoolExecutor(self.workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            yield from pool.map(work, items)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch works with one thread for as long as the block runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
