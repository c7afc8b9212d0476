"""Resources shared by the encoding of all tensors: device, worker threads, and factors of Hessians."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from bitgolf.quantize.stats import FactorCache, MatrixStats, StatsByPath, identity_stats
from bitgolf.runtime.threads import single_threaded

T = TypeVar("T")
R = TypeVar("R")


class EncodingSession:
    """Device, workers and caches for one pass over a model, or for all trials of a size search.

    workers: number of threads, each with one torch thread; None: `torch.get_num_threads()`. Codes do not depend on it.
    device: where codecs compute; None is the CPU. The CPU also replaces a device without float64 (MPS), in which
    Hessians are factored.
    description: a line about both, for the log.
    """

    def __init__(self, workers: int | None = None, device: torch.device | None = None) -> None:
        wanted, cpu = device or torch.device("cpu"), torch.device("cpu")
        self.device = wanted if wanted.type in ("cpu", "cuda") else cpu
        self.workers = workers or torch.get_num_threads()
        origin = "as set" if workers else "torch's default"
        fallback = "" if self.device == wanted else f" ({wanted} has no float64)"
        self.description = f"encoding on {self.device}{fallback}, {self.workers} threads ({origin})"
        self._identity_caches: dict[int, FactorCache] = {}  # by number of columns

    def to_device(self, stats: StatsByPath) -> dict[str, MatrixStats]:
        """The statistics on the session's device, with a factor cache for each distinct Hessian.

        Statistics that this method has returned before are returned unchanged, so that a caller that encodes repeatedly
        transfers and factorizes each Hessian once.
        """
        caches, found = dict[int, FactorCache](), dict[str, MatrixStats]()
        for path, known in stats.items():
            if known.cache and known.cache.hessian is known.hessian and known.hessian.device.type == self.device.type:
                found[path] = known
                continue
            if id(known.hessian) not in caches:
                caches[id(known.hessian)] = FactorCache(known.hessian.to(self.device))
            cache = caches[id(known.hessian)]
            moved = {name: tensor.to(self.device) for name, tensor in known.tensors().items()}
            found[path] = known._replace(**moved)._replace(hessian=cache.hessian, cache=cache)
        return found

    def identity_stats(self, rows: int, columns: int) -> MatrixStats:
        """`stats.identity_stats`, with one Hessian and cache shared by all matrices of this number of columns."""
        known = identity_stats(rows, columns)
        cache = self._identity_caches.setdefault(columns, FactorCache(known.hessian))
        return known._replace(hessian=cache.hessian, cache=cache)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield `work(item)` in the order of the items. `work` must not call `map` itself.

        Each item is computed with one torch thread, whatever the number of workers: more threads could change the order
        of floating-point sums, and with it the codes.
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
