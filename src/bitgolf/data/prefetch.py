"""Batches made ahead by a background thread, so that a training step waits for none."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.data.batches import BatchLoader, TokenRows

PREFETCH_STEPS = 2


class HostBatch(NamedTuple):
    """Inputs and targets as tensors of the CPU, int64 [rows, length]."""

    inputs: Tensor
    targets: Tensor


class Prefetcher:
    """One rank's batches, made by one thread, two ahead of the step that was asked for.

    A batch is a pure function of (step, rows, length), so this changes none of them: after step s it makes s + 1 and
    s + 2 of the same shape, and whatever else is asked for (another step, another shape) is made then: by the same
    thread, as an order may extend its tables while it is read. With `pin` the tensors lie in pinned memory, from which a
    GPU copies without the host waiting.
    """

    def __init__(self, batches: BatchLoader, rank: int, world_size: int, *, pin: bool) -> None:
        self.batches, self.rank, self.world_size, self.pin = batches, rank, world_size, pin
        self._ahead: dict[tuple[int, int, int], Future[HostBatch]] = {}
        device = torch.cuda.current_device() if pin else None  # memory is pinned for the thread's device
        self._thread = ThreadPoolExecutor(1, "batches", initializer=_set_cuda_device, initargs=(device,))

    def load_batch(self, step: int, *, rows: int, length: int) -> HostBatch:
        """This rank's share of a step. Raises what making it raised."""
        wanted = {(step + i, rows, length) for i in range(PREFETCH_STEPS + 1)}
        for key in self._ahead.keys() - wanted:
            self._ahead.pop(key).cancel()
        for key in sorted(wanted - self._ahead.keys()):
            self._ahead[key] = self._thread.submit(_load_batch, self.batches, self.rank, self.world_size, key, self.pin)
        return self._ahead.pop((step, rows, length)).result()

    def close(self) -> None:
        """End the thread. (Without this call it ends when nothing refers to the prefetcher any more.)"""
        self._thread.shutdown(cancel_futures=True)


def _set_cuda_device(device: int | None) -> None:
    """In a new thread, which begins with the first GPU of the machine: make this one current."""
    if device is not None:
        torch.cuda.set_device(device)


def _load_batch(batches: BatchLoader, rank: int, size: int, key: tuple[int, int, int], pin: bool) -> HostBatch:
    step, rows, length = key
    made = batches.load_batch(step, rank, size, rows=rows, length=length)
    return HostBatch(_tensor(made.inputs, pin), _tensor(made.targets, pin))


def _tensor(rows: TokenRows, pin: bool) -> Tensor:
    tensor = torch.from_numpy(rows)
    return tensor.contiguous().pin_memory() if pin else tensor
