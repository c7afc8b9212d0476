"""Joining and leaving the process group of a run that `torchrun` started, from the environment variables that it sets.

Without torchrun a run is a single process, and no group is created.
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

_JOINED = list[DistributedContext]()
"""The group that this process has joined, if any."""


@contextmanager
def joined(device_type: str = "auto") -> Iterator[DistributedContext]:
    """Join the process group for the duration of a block; see `init_distributed`.

    The block ends with a barrier: a process that left early could close connections that others still use.
    After an error there is none, since the others may never reach it. Inside another such block, nothing is joined or
    left: the block uses the group of the outer one.
    """
    if _JOINED:
        yield _JOINED[-1]
        return
    distributed = init_distributed(device_type)
    _JOINED.append(distributed)
    try:
        yield distributed
        if distributed.backend:
            dist.all_reduce(torch.zeros(1))  # a barrier on the CPU, by gloo
    finally:
        _JOINED.pop()
        shutdown_distributed(distributed)


def init_distributed(device_type: str = "auto") -> DistributedContext:
    """Join the group that torchrun describes: NCCL with one GPU per process, or gloo on the CPU.

    With NCCL, gloo is used as well, for tensors on the CPU, so that host-side decisions do not synchronize with a GPU.
    device_type: see `device.select_device`. Raises `UsageError` if there is no such device for this process, or if the
    environment variables are inconsistent.
    """
    rank, size, local = rank_from_environment(), _environment_int("WORLD_SIZE", 1), _environment_int("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        message = f"the environment variable RANK is {rank}, but WORLD_SIZE is {size}"
        raise UsageError(message, hint="start the processes with torchrun, or unset both variables")
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
    """Destroy the process group, if there is one."""
    if distributed.backend:
        dist.destroy_process_group()


def rank_from_environment() -> int:
    """Return this process's rank from the environment, which needs no group; 0 without torchrun."""
    return _environment_int("RANK", 0)


def _environment_int(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        message = f"the environment variable {name} must be a number, got {text!r}"
        raise UsageError(message, hint="start the processes with torchrun, or unset it")
    return int(text)
