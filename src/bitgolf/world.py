"""The processes that train together, and what they say to each other. One process alone says nothing, at no cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bitgolf.versions import all_gather, reduce_scatter

Value = TypeVar("Value", bool, int, float)


class World(NamedTuple):
    """This process among `size` of them; `backend` is "" where there is one process only."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this machine
    device: torch.device = torch.device("cpu")
    backend: str = ""


ALONE = World()


class Pending:
    """A tensor on its way; the one it is made from lives until it has arrived."""

    def __init__(self, result: Tensor, source: Tensor, work: dist.Work | None = None) -> None:
        self.result, self.source, self.work = result, source, work

    def wait(self) -> Tensor:
        """The tensor, as soon as it is there; the same one each time."""
        if self.work is not None:
            self.work.wait()
            self.work = None  # gloo writes the result again at each wait, over what was done to it since
        return self.result


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


def scatter_mean(stack: Tensor, world: World) -> Pending:
    """Of the mean over all processes of a stack (W k, ...), this process's share: the rank-th k slices, (k, ...).

    Returns at once. The stack itself is used up.
    """
    if world.size == 1:
        return Pending(stack, stack)
    stack /= world.size
    share = torch.empty_like(stack[: len(stack) // world.size])
    return Pending(share, stack, reduce_scatter(share, stack, async_op=True))


def gather(share: Tensor, world: World) -> Pending:
    """The stack (W k, ...) of every process's share (k, ...), in the order of ranks. Returns at once."""
    if world.size == 1:
        return Pending(share, share)
    stack = share.new_empty(world.size * len(share), *share.shape[1:])
    return Pending(stack, share, all_gather(stack, share, async_op=True))


def agree(value: Value, world: World) -> Value:
    """Rank 0's value, on every rank: a decision to stop, a time. Integers are exact up to 2^53."""
    if world.size == 1:
        return value
    shared = torch.tensor(float(value), dtype=torch.float64, device=world.device)
    dist.broadcast(shared, src=0)
    return type(value)(shared.item())


def shared(value: Any, world: World) -> Any:
    """Rank 0's value, on every rank: numbers, strings, lists and dicts, as JSON bytes in a tensor; nothing is unpickled."""
    data = json.dumps(value).encode() if world.rank == 0 else b""
    if world.size > 1:
        buffer = torch.zeros(agree(len(data), world), dtype=torch.uint8, device=world.device)
        if world.rank == 0:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, src=0)
        data = bytes(buffer.tolist())
    return json.loads(data)


def total(values: Tensor, world: World) -> Tensor:
    """The sum over all processes of each value of a tensor on the world's device."""
    if world.size == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def mean(values: Tensor, world: World) -> Tensor:
    """The mean over all processes of each value of a tensor on the world's device."""
    return total(values, world) / world.size
