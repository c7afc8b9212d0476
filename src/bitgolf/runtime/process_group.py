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
from bitgolf.runtime.device import choose
from bitgolf.runtime.distributed import World


@contextmanager
def joined(wanted: str = "auto") -> Iterator[World]:
    """This process's part in the group, for the time of a block; see `join`.

    A process that is done waits for the others before it leaves: else it may close connections that they still use.
    After an error none waits, as the others may never come.
    """
    world = join(wanted)
    try:
        yield world
        if world.backend:
            dist.all_reduce(torch.zeros(1))  # a barrier on the CPU, which gloo serves beside any backend
    finally:
        leave(world)


def join(wanted: str = "auto") -> World:
    """Enter the group that torchrun describes: NCCL with a GPU for each process, or gloo on the CPU.

    Beside NCCL, gloo serves tensors on the CPU: decisions of the host then wait for no GPU.
    wanted: the kind of device, as `device.choose` takes it. Raises `UsageError` where a process has none.
    """
    rank, size, local = environment_rank(), _variable("WORLD_SIZE", 1), _variable("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} of WORLD_SIZE {size}", mend="start with torchrun, or unset both")
    device = choose(local, wanted).device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        return World(device=device, local_rank=local)
    backend = "nccl" if device.type == "cuda" else "gloo"
    both = "cpu:gloo,cuda:nccl" if backend == "nccl" else backend
    dist.init_process_group(both, device_id=device if backend == "nccl" else None)
    return World(rank, size, local, device, backend)


def leave(world: World) -> None:
    """Leave the group, if there is one."""
    if world.backend:
        dist.destroy_process_group()


def environment_rank() -> int:
    """This process's rank as torchrun tells it, before any group is joined; 0 without torchrun."""
    return _variable("RANK", 0)


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, which is no number", mend="start with torchrun, or unset it")
    return int(text)
