"""What one pass of encoding shares: the factors of Hessians, and the threads that work on matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

from bitgolf.quantize.codecs.gptq import Factor, Gptq
from bitgolf.quantize.stats import Calibration, Stats, flat

T = TypeVar("T")
R = TypeVar("R")


class Session:
    """Owned by whoever encodes: for one pass over a model, or for all probes of a fit, which then factor nothing twice.

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
        self.remark = f"encoding on {self.device}{unable}, {self.workers} threads ({said})"
        self._lock, self._entries = Lock(), dict[tuple[Any, ...], _Entry]()
        self._flat: dict[int, Tensor] = {}
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}

    def placed(self, stats: Calibration) -> dict[str, Stats]:
        """The statistics on the device. Matrices that share a Hessian (q, k, v) still do, and find it again in every pass."""
        found = {}
        for path, known in stats.items():
            key = id(known.hessian)
            if key not in self._moved:
                self._moved[key] = known.hessian, known.hessian.to(self.device)
            found[path] = Stats(self._moved[key][1], known.outputs.to(self.device), known.tokens)
        return found

    def factor(self, solve: Gptq, hessian: Tensor) -> Factor:
        """`solve.factor(hessian)`, worked out once for each solver's settings and tensor: q, k and v share theirs."""
        key = (id(hessian), solve.damping, solve.order)
        with self._lock:
            entry = self._entries.setdefault(key, _Entry(hessian))
        with entry.lock:
            if entry.factor is None:
                entry.factor = solve.factor(hessian)
            return entry.factor

    def flat(self, rows: int, columns: int) -> Stats:
        """Statistics that prefer nothing (`stats.flat`), with one Hessian for all matrices of this width."""
        known = flat(rows, columns)
        return known._replace(hessian=self._flat.setdefault(columns, known.hessian))

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results in the order of the items, as they come. The work itself must not call `map`.

        Torch runs with one thread while it is read, also without other workers: sums in another order would be other
        codes.
        """
        items, threads = list(items), torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            if self.workers == 1 or len(items) < 2:
                yield from map(work, items)
                return
            with ThreadPoolExecutor(self.workers, initializer=partial(torch.set_num_threads, 1)) as pool:
                yield from pool.map(work, items)
        finally:
            torch.set_num_threads(threads)


class _Entry:
    """`hessian` is kept, or another tensor could get its identity."""

    def __init__(self, hessian: Tensor) -> None:
        self.hessian, self.lock = hessian, Lock()
        self.factor: Factor | None = None
