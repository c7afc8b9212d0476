"""Prefetching of batches in a background thread, so that training steps need not wait for them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.data.batches import BatchLoader, TokenRows

PREFETCH_STEPS = 2


class HostBatch(NamedTuple):
    """Inputs and targets as CPU tensors, int64 (rows, length)."""

    inputs: Tensor
    targets: Tensor


class Prefetcher:
    """Loads the batches of a rank in one background thread, `PREFETCH_STEPS` steps ahead.

    A batch is a pure function of (step, rows, length), so prefetching does not change batches. After a request for step
    s, steps s + 1 and s + 2 are loaded in the same shape. Any other request is loaded on demand, by the same thread,
    because data orders extend their tables while they are read. pin: return tensors in pinned memory, from which copies
    to a GPU are asynchronous.
    """

    def __init__(self, batches: BatchLoader, rank: int, world_size: int, *, pin: bool) -> None:
        self.batches, self.rank, self.world_size, self.pin = batches, rank, world_size, pin
        self._ahead: dict[tuple[int, int, int], Future[HostBatch]] = {}
        device = torch.cuda.current_device() if pin else None  # the thread pins memory for this device
        self._thread = ThreadPoolExecutor(1, "batches", initializer=_set_cuda_device, initargs=(device,))

    def load_batch(self, step: int, *, rows: int, length: int) -> HostBatch:
        """Return this rank's rows of a step; see `BatchLoader.load_batch`. Raises the errors of loading the batch."""
        wanted = {(step + i, rows, length) for i in range(PREFETCH_STEPS + 1)}
        for key in self._ahead.keys() - wanted:
            self._ahead.pop(key).cancel()
        for key in sorted(wanted - self._ahead.keys()):
            self._ahead[key] = self._thread.submit(_load_batch, self.batches, self.rank, self.world_size, key, self.pin)
        return self._ahead.pop((step, rows, length)).result()

    def close(self) -> None:
        """End the thread. (Otherwise it ends when the prefetcher is garbage-collected.)"""
        self._thread.shutdown(cancel_futures=True)


def _set_cuda_device(device: int | None) -> None:
    """Make a GPU the current device of the thread; a new thread starts with GPU 0."""
    if device is not None:
        torch.cuda.set_device(device)


def _load_batch(batches: BatchLoader, rank: int, size: int, key: tuple[int, int, int], pin: bool) -> HostBatch:
    step, rows, length = key
    made = batches.load_batch(step, rank, size, rows=rows, length=length)
    return HostBatch(_tensor(made.inputs, pin), _tensor(made.targets, pin))


def _tensor(rows: TokenRows, pin: bool) -> Tensor:
    tensor = torch.from_numpy(rows)
    return tensor.contiguous().pin_memory() if pin else tensor
