"""The processes that train together, and what they say to each other. One process alone says nothing, at no cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bitgolf.runtime.compat import all_gather, reduce_scatter

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
    """A tensor on its way, in the type `dtype`; the one it is made from lives until it has arrived."""

    def __init__(
        self, result: Tensor, source: Tensor, work: dist.Work | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.result, self.source, self.work, self.dtype = result, source, work, dtype or result.dtype

    def wait(self) -> Tensor:
        """The tensor, as soon as it is there; the same one each time."""
        if self.work is not None:
            self.work.wait()
            self.work = None  # gloo writes the result again at each wait, over what was done to it since
            self.result = self.result.to(self.dtype)
        return self.result


class Mean:
    """Gradients on their way to their mean over all processes, in one buffer and one all-reduce."""

    def __init__(self, grads: list[Tensor], world: World) -> None:
        self.grads, self.size = grads, world.size
        self.buffer = torch.cat([g.reshape(-1) for g in grads]) if world.size > 1 and grads else None
        self.work = dist.all_reduce(self.buffer, async_op=True) if self.buffer is not None else None

    @torch.no_grad()
    def wait(self) -> None:
        """Put the means into the gradients."""
        if self.work is None or self.buffer is None:
            return
        self.work.wait()
        self.buffer /= self.size
        pieces = self.buffer.split([g.numel() for g in self.grads])
        torch._foreach_copy_(self.grads, [piece.view(g.shape) for piece, g in zip(pieces, self.grads, strict=True)])


def mean_gradients(params: Iterable[Tensor], world: World) -> Mean:
    """Send gradients on their way to their mean over all processes. Returns at once.

    Every process must have gradients for the same parameters, which holds when all run the same graph.
    """
    return Mean([p.grad for p in params if p.grad is not None], world)


def scatter_mean(stack: Tensor, world: World) -> Pending:
    """Of the mean over all processes of a stack (W k, ...), this process's share: the rank-th k slices, (k, ...).

    Returns at once. The stack itself is used up. It is summed in its own type; the share is float32.
    """
    if world.size == 1:
        return Pending(stack, stack)
    stack /= world.size
    share = torch.empty_like(stack[: len(stack) // world.size])
    return Pending(share, stack, reduce_scatter(share, stack, async_op=True), torch.float32)


def gather(share: Tensor, world: World, into: Tensor) -> Pending:
    """The stack (W k, ...) of every process's share (k, ...), in the order of ranks. Returns at once.

    It is written to `into`, of which the share may be the slice that it becomes.
    """
    if world.size == 1:
        return Pending(into, share)
    return Pending(into, share, all_gather(into, share, async_op=True))


def broadcast(values: Sequence[float], world: World) -> list[float]:
    """Rank 0's values, on every rank. They go from host to host: no GPU waits. Integers are exact up to 2^53."""
    if world.size == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return shared.tolist()


def agree(value: Value, world: World) -> Value:
    """Rank 0's value, on every rank: a decision to stop, a time."""
    return type(value)(broadcast([value], world)[0])


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


def smallest(value: int, world: World) -> int:
    """The smallest of all processes' values, on every one."""
    if world.size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return int(shared)
