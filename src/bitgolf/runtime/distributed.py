"""The processes that train together, and what they say to each other. One process alone says nothing, at no cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bitgolf.runtime.compat import all_gather_tensor, reduce_scatter_tensor

Value = TypeVar("Value", bool, int, float)


class DistributedContext(NamedTuple):
    """This process among `world_size` of them; `backend` is "" where there is one process only."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among the processes of this machine
    device: torch.device = torch.device("cpu")
    backend: str = ""


SINGLE_PROCESS = DistributedContext()


class AsyncTensor:
    """A tensor on its way, in the type `dtype`; the one it is made from lives until it has arrived."""

    def __init__(
        self, result: Tensor, input: Tensor, handle: dist.Work | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.result, self.input, self.handle, self.dtype = result, input, handle, dtype or result.dtype

    def wait(self) -> Tensor:
        """The tensor, as soon as it is there; the same one each time."""
        if self.handle is not None:
            self.handle.wait()
            self.handle = None  # gloo writes the result again at each wait, over what was done to it since
            self.result = self.result.to(self.dtype)
        return self.result


class GradientAllReduce:
    """Gradients on their way to their mean over all processes, in one buffer and one all-reduce."""

    def __init__(self, grads: list[Tensor], distributed: DistributedContext) -> None:
        self.grads, self.size = grads, distributed.world_size
        self.buffer = torch.cat([g.reshape(-1) for g in grads]) if distributed.world_size > 1 and grads else None
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


def all_reduce_gradients(params: Iterable[Tensor], distributed: DistributedContext) -> GradientAllReduce:
    """Send gradients on their way to their mean over all processes. Returns at once.

    Every process must have gradients for the same parameters, which holds when all run the same graph.
    """
    return GradientAllReduce([p.grad for p in params if p.grad is not None], distributed)


def reduce_scatter_mean(tensor: Tensor, distributed: DistributedContext) -> AsyncTensor:
    """Of the mean over all processes of a stack (W k, ...), this process's share: the rank-th k slices, (k, ...).

    Returns at once. The stack itself is used up. It is summed in its own type; the share is float32.
    """
    if distributed.world_size == 1:
        return AsyncTensor(tensor, tensor)
    tensor /= distributed.world_size
    share = torch.empty_like(tensor[: len(tensor) // distributed.world_size])
    return AsyncTensor(share, tensor, reduce_scatter_tensor(share, tensor, async_op=True), torch.float32)


def all_gather(shard: Tensor, distributed: DistributedContext, out: Tensor) -> AsyncTensor:
    """The stack (W k, ...) of every process's share (k, ...), in the order of ranks. Returns at once.

    It is written to `out`, of which the share may be the slice that it becomes.
    """
    if distributed.world_size == 1:
        return AsyncTensor(out, shard)
    return AsyncTensor(out, shard, all_gather_tensor(out, shard, async_op=True))


def broadcast_list(values: Sequence[float], distributed: DistributedContext) -> list[float]:
    """Rank 0's values, on every rank. They go from host to host: no GPU waits. Integers are exact up to 2^53."""
    if distributed.world_size == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return shared.tolist()


def broadcast_scalar(value: Value, distributed: DistributedContext) -> Value:
    """Rank 0's value, on every rank: a decision to stop, a time."""
    return type(value)(broadcast_list([value], distributed)[0])


def broadcast_json(value: Any, distributed: DistributedContext) -> Any:
    """Rank 0's value, on every rank: numbers, strings, lists and dicts, as JSON bytes in a tensor; nothing is unpickled."""
    data = json.dumps(value).encode() if distributed.rank == 0 else b""
    if distributed.world_size > 1:
        buffer = torch.zeros(broadcast_scalar(len(data), distributed), dtype=torch.uint8, device=distributed.device)
        if distributed.rank == 0:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, src=0)
        data = bytes(buffer.tolist())
    return json.loads(data)


def all_reduce_sum(values: Tensor, distributed: DistributedContext) -> Tensor:
    """The sum over all processes of each value of a tensor on the group's device."""
    if distributed.world_size == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def all_reduce_mean(values: Tensor, distributed: DistributedContext) -> Tensor:
    """The mean over all processes of each value of a tensor on the group's device."""
    return all_reduce_sum(values, distributed) / distributed.world_size


def all_reduce_min(value: int, distributed: DistributedContext) -> int:
    """The smallest of all processes' values, on every one."""
    if distributed.world_size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return int(shared)
