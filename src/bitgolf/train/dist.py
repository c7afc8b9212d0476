"""Many processes as one: each has its share of the batch, gradients are averaged, rank 0 decides.

Started by `torchrun`, which says in the environment who is who; without it a run is one process and no group is made,
and everything below is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bitgolf.errors import UsageError

Value = TypeVar("Value", bool, int, float)


class World(NamedTuple):
    """This process among `size` of them; `backend` is "" where there is one process only."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    device: torch.device = torch.device("cpu")
    backend: str = ""


def join() -> World:
    """Enter the group that torchrun describes: NCCL with a GPU for each process, or gloo on the CPU."""
    rank, size, local = environment_rank(), _variable("WORLD_SIZE", 1), _variable("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} of WORLD_SIZE {size}", mend="start with torchrun, or unset both")
    device = _device(local)
    if size == 1:
        return World(device=device, local_rank=local)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, device_id=device if backend == "nccl" else None)
    return World(rank, size, local, device, backend)


def leave(world: World) -> None:
    """Leave the group, if there is one."""
    if world.backend:
        dist.destroy_process_group()


def environment_rank() -> int:
    """This process's rank as torchrun tells it, before any group is joined; 0 without torchrun."""
    return _variable("RANK", 0)


@torch.no_grad()
def mean_gradients(params: Iterable[Tensor], world: World) -> None:
    """Replace each gradient by its mean over all processes: one buffer, one all-reduce.

    Every process must have gradients for the same parameters, which holds when all run the same graph.
    """
    grads = [p.grad for p in params if p.grad is not None]
    if world.size == 1 or not grads:
        return
    buffer = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(buffer)
    buffer /= world.size
    pieces = buffer.split([g.numel() for g in grads])
    torch._foreach_copy_(grads, [piece.view(g.shape) for piece, g in zip(pieces, grads, strict=True)])


def agree(value: Value, world: World) -> Value:
    """Rank 0's value, on every rank: a decision to stop, a time. Integers are exact up to 2^53."""
    if world.size == 1:
        return value
    shared = torch.tensor(float(value), dtype=torch.float64, device=world.device)
    dist.broadcast(shared, src=0)
    return type(value)(shared.item())


def mean(values: Tensor, world: World) -> Tensor:
    """The mean over all processes of each value of a tensor on the world's device."""
    if world.size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world.size


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, which is no number", mend="start with torchrun, or unset it")
    return int(text)


def _device(local: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        cause = f"process {local} of this machine has no GPU ({torch.cuda.device_count()} here)"
        raise UsageError(cause, mend="start fewer processes, or hide the GPUs with CUDA_VISIBLE_DEVICES=")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
