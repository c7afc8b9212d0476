"""Which device trains, in which precision, and why: chosen by ability, said aloud."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch


class Device(NamedTuple):
    """A device, the type of its matrix products, and the reason for the choice."""

    device: torch.device
    compute: torch.dtype
    why: str

    def autocast(self) -> AbstractContextManager[object]:
        if self.compute is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.compute)


def choose(local_rank: int = 0) -> Device:
    """CUDA in bfloat16 where there is one, else the CPU in float32 (bfloat16 is far slower on most CPUs)."""
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        name = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Device(device, torch.bfloat16, f"{name}: bfloat16 products, float32 weights")
        return Device(device, torch.float32, f"{name}: float32, as it has no bfloat16")
    return Device(
        torch.device("cpu"), torch.float32, f"no CUDA device: CPU with {torch.get_num_threads()} threads, float32"
    )
