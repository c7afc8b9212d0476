"""Asynchronous copies between host and device, through pinned memory and CUDA events."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device. To CUDA the copy is asynchronous, from pinned memory.

    The pinned tensor may be freed at once: PyTorch's allocator reuses its memory only after the stream has read it.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class DeviceToHostCopy:
    """An asynchronous copy of a tensor to the host. Only `wait` blocks."""

    def __init__(self, x: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = x.to("cpu", non_blocking=x.is_cuda)  # PyTorch allocates pinned memory for a non-blocking copy
        if x.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(x.device))

    @property
    def is_pending(self) -> bool:
        """Whether `wait` may still block."""
        return self._event is not None

    def wait(self) -> Tensor:
        """The tensor on the CPU, once the copy is complete."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values
