"""Ordered maps: a function is applied to many items on several cores, and the results come in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.queues import SimpleQueue
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from bitgolf.config.code_files import CODE_FILES, CodeFile, load_code_files
from bitgolf.errors import BitgolfError
from bitgolf.runtime.parent import exit_after

Item = TypeVar("Item")
Result = TypeVar("Result")
PENDING_PER_WORKER = 2
"""Items that wait for each worker, so that none is idle and memory stays bounded."""


class OrderedMap(AbstractContextManager["OrderedMap"], ABC):
    """Applies functions to items. workers: number of processes that do so. name: what they are, for messages."""

    workers: int = 1
    name: str = "this process"

    @abstractmethod
    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` for each item, in order. Items are read only as fast as results are taken.

        function: a pure function of a module, or a `functools.partial` of one. Its arguments, items and results must
        be picklable. Raises the first error of the function.
        """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the workers. Items that are being processed are dropped if the block ends by an error."""


class InProcess(OrderedMap):
    """Applies the function in this process."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(function, items)


class _Worker(SpawnProcess):
    """A process that does not import the program that starts it.

    Python would run the script of a user again in each worker, to find functions there: those of workers are in this
    package.
    """

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _WorkerContext(SpawnContext):
    """Starts new processes by spawn: a fork could copy locks that threads of this process hold. started: all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.started = list[_Worker]()

    def Process(self, *args: Any, **settings: Any) -> _Worker:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.started.append(_Worker(*args, **settings))
        return self.started[-1]


class LocalProcesses(OrderedMap):
    """Applies the function in `workers` processes on this host, which end if this process does.

    gpus: names of GPUs, one for each worker, which sees no other (`CUDA_VISIBLE_DEVICES`); none for all of this process.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        self.workers, self.name = workers, f"{workers} processes"
        self._context = _WorkerContext()
        own = self._context.SimpleQueue() if gpus else None
        for gpu in gpus:
            own.put(gpu)  # type: ignore[union-attr]
        settings = (list(CODE_FILES.values()), own)
        self._pool = ProcessPoolExecutor(workers, self._context, initializer=_start_worker, initargs=settings)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        limit = self.workers * (1 + PENDING_PER_WORKER)
        try:
            yield from in_order((self._pool.submit(function, item) for item in items), limit, Future.result)
        except BrokenProcessPool as error:
            message = "a worker process ended unexpectedly, perhaps for want of memory"
            raise BitgolfError(message, hint="run the command again, with fewer --processes") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After an error the workers get SIGTERM, on which a training saves its state."""
        if kind is not None:
            for worker in self._context.started:
                worker.terminate()
        self._pool.shutdown(wait=kind is None, cancel_futures=True)


Handle = TypeVar("Handle")


def in_order(handles: Iterable[Handle], limit: int, wait: Callable[[Handle], Result]) -> Iterator[Result]:
    """Yield the result of each handle, in order. Reading a handle starts its work; at most `limit` are started."""
    pending: deque[Handle] = deque()
    for handle in handles:
        pending.append(handle)
        if len(pending) >= limit:
            yield wait(pending.popleft())
    while pending:
        yield wait(pending.popleft())


def _start_worker(code: list[CodeFile], gpus: SimpleQueue[str] | None) -> None:
    """Leave SIGINT to the main process, and end when it ends, even if it is killed.

    code: files of the user to load. gpus: from which this worker takes its own, before torch looks for any.
    """
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        exit_after(parent.join)
    load_code_files(code)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_map(workers: int) -> OrderedMap:
    """Return a map over `workers` processes on this host; one worker is this process itself."""
    return LocalProcesses(workers) if workers > 1 else InProcess()
