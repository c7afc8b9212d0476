"""Which device trains, in which precision, and why: chosen by ability, said aloud."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

from bitgolf.errors import UsageError


class Device(NamedTuple):
    """A device, the type of its matrix products, and the reason for the choice."""

    torch_device: torch.device
    compute_dtype: torch.dtype
    description: str

    def autocast(self) -> AbstractContextManager[object]:
        if self.compute_dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.torch_device.type, self.compute_dtype)


DEVICE_TYPES = ("auto", "cuda", "mps", "cpu")
"""What `--device` takes."""


def select_device(local_rank: int = 0, device_type: str = "auto") -> Device:
    """The device of this process: the one that is `device_type`, or CUDA where there is one, else the CPU.

    CUDA computes in bfloat16 where it is able. The CPU computes in float32, as bfloat16 is far slower on most CPUs.
    MPS (Apple's GPUs) is experimental, in float32, and never chosen unasked. local_rank: this process among those of
    its machine, each of which has a GPU of its own. Raises `UsageError` for a device that is not there.
    """
    if device_type not in DEVICE_TYPES:
        raise UsageError(
            f"there is no kind of device {device_type!r}", where="--device", hint=" or ".join(DEVICE_TYPES)
        )
    if device_type == "mps":
        return _mps(local_rank)
    if device_type == "cuda" and not torch.cuda.is_available():
        hint = "--device cpu, or install PyTorch with CUDA"
        raise UsageError("PyTorch finds no CUDA device here", where="--device cuda", hint=hint)
    if device_type == "cuda" or (device_type == "auto" and torch.cuda.is_available()):
        return _cuda(local_rank)
    why = "as asked" if device_type == "cpu" else "no CUDA device"
    if device_type == "auto" and torch.backends.mps.is_available():
        why += ", and MPS is experimental: --device mps"
    threads = torch.get_num_threads()
    return Device(torch.device("cpu"), torch.float32, f"CPU ({why}): {threads} threads, float32")


def _cuda(local_rank: int) -> Device:
    if local_rank >= (count := torch.cuda.device_count()):
        cause = f"process {local_rank} of this machine has no GPU ({count} here)"
        raise UsageError(cause, hint="start fewer processes, or --device cpu")
    device = torch.device("cuda", local_rank)
    name = torch.cuda.get_device_name(device)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Device(device, torch.bfloat16, f"{name}: bfloat16 products, float32 weights")
    return Device(device, torch.float32, f"{name}: float32, as it has no bfloat16")


def _mps(local_rank: int) -> Device:
    if not torch.backends.mps.is_available():
        hint = "--device cpu, or macOS 14 on Apple silicon"
        raise UsageError("PyTorch finds no MPS device here", where="--device mps", hint=hint)
    if local_rank:
        raise UsageError("there is one MPS device, for one process", where="--device mps", hint="--devices 1")
    return Device(torch.device("mps"), torch.float32, "MPS (experimental): float32")
