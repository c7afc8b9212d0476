"""Distributed communication: broadcast, all-reduce, reduce-scatter and all-gather over the ranks of a run.

With a single process there is no communication, and functions return their input.
"""

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
    """Rank and device of this process. `backend` is "" if there is only one process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # rank among the processes of this machine
    device: torch.device = torch.device("cpu")
    backend: str = ""


SINGLE_PROCESS = DistributedContext()


class AsyncTensor:
    """The result of an asynchronous collective, converted to `dtype` when it is complete.

    `input` is referenced here so that its memory is not reused before then.
    """

    def __init__(
        self, result: Tensor, input: Tensor, handle: dist.Work | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.result, self.input, self.handle, self.dtype = result, input, handle, dtype or result.dtype

    def wait(self) -> Tensor:
        """Wait for the collective, and return its result: the same tensor at each call."""
        if self.handle is not None:
            self.handle.wait()
            self.handle = None  # gloo writes the result again at each wait, which would undo later changes
            self.result = self.result.to(self.dtype)
        return self.result


class GradientAllReduce:
    """An asynchronous all-reduce that averages gradients over all processes, in one flat buffer."""

    def __init__(self, grads: list[Tensor], distributed: DistributedContext) -> None:
        self.grads, self.size = grads, distributed.world_size
        self.buffer = torch.cat([g.reshape(-1) for g in grads]) if distributed.world_size > 1 and grads else None
        self.work = dist.all_reduce(self.buffer, async_op=True) if self.buffer is not None else None

    @torch.no_grad()
    def wait(self) -> None:
        """Wait for the all-reduce, and copy the means into the gradients."""
        if self.work is None or self.buffer is None:
            return
        self.work.wait()
        self.buffer /= self.size
        pieces = self.buffer.split([g.numel() for g in self.grads])
        torch._foreach_copy_(self.grads, [piece.view(g.shape) for piece, g in zip(pieces, self.grads, strict=True)])


def all_reduce_gradients(params: Iterable[Tensor], distributed: DistributedContext) -> GradientAllReduce:
    """Start averaging gradients over all processes, without waiting; `wait()` of the result writes the means.

    All processes must have gradients for the same parameters. They do if they run the same graph.
    """
    return GradientAllReduce([p.grad for p in params if p.grad is not None], distributed)


def reduce_scatter_mean(tensor: Tensor, distributed: DistributedContext) -> AsyncTensor:
    """Average `tensor` (W k, ...) over all W processes and return this rank's k slices of the mean, (k, ...).

    Asynchronous; `tensor` is overwritten. The sum is computed in the dtype of `tensor`; with more than one process the
    result is float32.
    """
    if distributed.world_size == 1:
        return AsyncTensor(tensor, tensor)
    tensor /= distributed.world_size
    share = torch.empty_like(tensor[: len(tensor) // distributed.world_size])
    return AsyncTensor(share, tensor, reduce_scatter_tensor(share, tensor, async_op=True), torch.float32)


def all_gather(shard: Tensor, distributed: DistributedContext, out: Tensor) -> AsyncTensor:
    """Concatenate `shard` (k, ...) of all W processes in the order of their ranks into `out` (W k, ...). Asynchronous.

    `shard` may be the slice of `out` that it is written to.
    """
    if distributed.world_size == 1:
        return AsyncTensor(out, shard)
    return AsyncTensor(out, shard, all_gather_tensor(out, shard, async_op=True))


def broadcast_list(values: Sequence[float], distributed: DistributedContext) -> list[float]:
    """Return rank 0's values on every rank.

    They are sent as float64 from host to host, so no GPU is synchronized. Integers are exact up to 2^53.
    """
    if distributed.world_size == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return shared.tolist()


def broadcast_scalar(value: Value, distributed: DistributedContext) -> Value:
    """Return rank 0's value on every rank, for example a decision to stop or a time."""
    return type(value)(broadcast_list([value], distributed)[0])


def broadcast_json(value: Any, distributed: DistributedContext) -> Any:
    """Return rank 0's value on every rank: numbers, strings, lists and dicts.

    It is sent as JSON bytes in a tensor, so that nothing is unpickled.
    """
    data = json.dumps(value).encode() if distributed.rank == 0 else b""
    if distributed.world_size > 1:
        buffer = torch.zeros(broadcast_scalar(len(data), distributed), dtype=torch.uint8, device=distributed.device)
        if distributed.rank == 0:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, src=0)
        data = bytes(buffer.tolist())
    return json.loads(data)


def all_reduce_sum(values: Tensor, distributed: DistributedContext) -> Tensor:
    """Return the elementwise sum of `values`, a tensor on the device of the group, over all processes."""
    if distributed.world_size == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def all_reduce_mean(values: Tensor, distributed: DistributedContext) -> Tensor:
    """Return the elementwise mean of `values` over all processes; see `all_reduce_sum`."""
    return all_reduce_sum(values, distributed) / distributed.world_size


def all_reduce_min(value: int, distributed: DistributedContext) -> int:
    """Return the smallest value of all processes."""
    if distributed.world_size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(shared, dist.ReduceOp.MIN)
    return int(shared)
