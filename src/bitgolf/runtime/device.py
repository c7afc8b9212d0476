"""Selection of the device of a process, and of the precision that it computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

from bitgolf.errors import UsageError


class Device(NamedTuple):
    """A device, the dtype of its matrix products, and a description of both for the log."""

    torch_device: torch.device
    compute_dtype: torch.dtype
    description: str

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context of `compute_dtype`; for float32, one that does nothing."""
        if self.compute_dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.torch_device.type, self.compute_dtype)


DEVICE_TYPES = ("auto", "cuda", "mps", "cpu")
"""The values of `--device`."""


def select_device(local_rank: int = 0, device_type: str = "auto") -> Device:
    """Return the device of this process. `auto` selects CUDA if available, otherwise the CPU.

    CUDA devices compute in bfloat16 if they support it. The CPU computes in float32, since bfloat16 is far slower on
    most CPUs. MPS (Apple's GPUs) is experimental, computes in float32, and is never selected by `auto`.
    local_rank: rank among the processes of this machine, each of which uses its own GPU. Raises `UsageError` if
    `device_type` is unknown or the device is not available.
    """
    if device_type not in DEVICE_TYPES:
        raise UsageError(f"unknown device {device_type!r}", where="--device", hint=f"use {' or '.join(DEVICE_TYPES)}")
    if device_type == "mps":
        return _mps(local_rank)
    if device_type == "cuda" and not torch.cuda.is_available():
        hint = "use --device cpu, or install PyTorch with CUDA"
        raise UsageError("PyTorch finds no CUDA device here", where="--device cuda", hint=hint)
    if device_type == "cuda" or (device_type == "auto" and torch.cuda.is_available()):
        return _cuda(local_rank)
    why = "as requested" if device_type == "cpu" else "no CUDA device"
    if device_type == "auto" and torch.backends.mps.is_available():
        why += "; --device mps selects MPS, which is experimental"
    threads = torch.get_num_threads()
    return Device(torch.device("cpu"), torch.float32, f"CPU ({why}): {threads} threads, float32")


def _cuda(local_rank: int) -> Device:
    if local_rank >= (count := torch.cuda.device_count()):
        cause = f"local rank {local_rank} has no GPU: this machine has {count}"
        raise UsageError(cause, hint="start fewer processes, or use --device cpu")
    device = torch.device("cuda", local_rank)
    name = torch.cuda.get_device_name(device)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Device(device, torch.bfloat16, f"{name}: bfloat16 matrix products, float32 weights")
    return Device(device, torch.float32, f"{name}: float32, because it does not support bfloat16")


def _mps(local_rank: int) -> Device:
    if not torch.backends.mps.is_available():
        hint = "use --device cpu, or macOS 14 on Apple silicon"
        raise UsageError("PyTorch finds no MPS device here", where="--device mps", hint=hint)
    if local_rank:
        cause = f"MPS supports one process, but this one has local rank {local_rank}"
        raise UsageError(cause, where="--device mps", hint="use --devices 1")
    return Device(torch.device("mps"), torch.float32, "MPS (experimental): float32")
