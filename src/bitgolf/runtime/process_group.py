"""Entering and leaving the group of processes that `torchrun` started: it says in the environment who is who.

Without torchrun a run is one process, and no group is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from bitgolf.errors import UsageError
from bitgolf.runtime.device import select_device
from bitgolf.runtime.distributed import DistributedContext


@contextmanager
def joined(device_type: str = "auto") -> Iterator[DistributedContext]:
    """This process's part in the group, for the time of a block; see `init_distributed`.

    A process that is done waits for the others before it leaves: else it may close connections that they still use.
    After an error none waits, as the others may never come.
    """
    distributed = init_distributed(device_type)
    try:
        yield distributed
        if distributed.backend:
            dist.all_reduce(torch.zeros(1))  # a barrier on the CPU, which gloo serves beside any backend
    finally:
        shutdown_distributed(distributed)


def init_distributed(device_type: str = "auto") -> DistributedContext:
    """Enter the group that torchrun describes: NCCL with a GPU for each process, or gloo on the CPU.

    Beside NCCL, gloo serves tensors on the CPU: decisions of the host then wait for no GPU.
    wanted: the kind of device, as `device.select_device` takes it. Raises `UsageError` where a process has none.
    """
    rank, size, local = rank_from_environment(), _environment_int("WORLD_SIZE", 1), _environment_int("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} of WORLD_SIZE {size}", hint="start with torchrun, or unset both")
    device = select_device(local, device_type).torch_device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return DistributedContext(device=device, local_rank=local)
    backend = "nccl" if device.type == "cuda" else "gloo"
    both = "cpu:gloo,cuda:nccl" if backend == "nccl" else backend
    dist.init_process_group(both, device_id=device if backend == "nccl" else None)
    return DistributedContext(rank, size, local, device, backend)


def shutdown_distributed(distributed: DistributedContext) -> None:
    """Leave the group, if there is one."""
    if distributed.backend:
        dist.destroy_process_group()


def rank_from_environment() -> int:
    """This process's rank as torchrun tells it, before any group is joined; 0 without torchrun."""
    return _environment_int("RANK", 0)


def _environment_int(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, which is no number", hint="start with torchrun, or unset it")
    return int(text)
