"""Copies between host and device that the host does not wait for: pinned memory, and an event that marks the end."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to_device(x: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device. To CUDA it is copied from pinned memory: a pageable copy would wait for the stream.

    The pinned copy may be freed at once: PyTorch's allocator reuses it only after the stream has read it.
    """
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class DeviceToHostCopy:
    """A tensor on its way to the host. Nothing waits until `wait` is called."""

    def __init__(self, x: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = x.to("cpu", non_blocking=x.is_cuda)  # into pinned memory, where it does not block
        if x.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(x.device))

    @property
    def is_pending(self) -> bool:
        """Whether waiting could take time."""
        return self._event is not None

    def wait(self) -> Tensor:
        """The values, on the CPU."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._values
