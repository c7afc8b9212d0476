"""Micro batches that fit the device: by forecast, then by trial, before the training clock starts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch._functorch.config as functorch
from torch import Tensor

from bitgolf.data.batches import rows_per_rank
from bitgolf.errors import BitgolfError
from bitgolf.runtime.compiler import compile_graph
from bitgolf.runtime.distributed import all_reduce_min
from bitgolf.train.activation_memory import activation_bytes, available_bytes, max_micro_tokens
from bitgolf.train.batch_schedule import BatchShape
from bitgolf.train.execution_plan import ExecutionPlan, LossFunction
from bitgolf.train.phases import progress_at
from bitgolf.train.trainer import Trainer

ACTIVATION_BUDGETS = (0.5, 0.25, 0.1, 0.0)
"""Shares of the activations that a compiled graph may keep, tried one after the other; the rest is computed twice
(inductor's `activation_memory_budget`)."""

LogLine = Callable[[str], None]


def estimate_micro_batch(trainer: Trainer, log: LogLine) -> float:
    """The most tokens of a micro-batch by a forecast, the same in all processes; infinity where memory has no limit."""
    free = available_bytes(trainer.device.torch_device)
    return math.inf if free is None else all_reduce_min(_estimated_tokens(trainer, free, log), trainer.distributed)


def find_micro_batch(trainer: Trainer, plan: ExecutionPlan, log: LogLine) -> ExecutionPlan:
    """The plan whose micro-batches fit the memory, found by trial, the same in all processes; weights stay as they are.

    Where a forward and backward pass runs out of memory, micro-batches get fewer rows; where one row is too much, a
    compiled graph recomputes activations. Raises `BitgolfError` where that is not enough.
    """
    if available_bytes(trainer.device.torch_device) is None:
        return plan
    budgets = list(ACTIVATION_BUDGETS) if plan.compute_loss is not trainer.loss_module else []
    for moment in trainer.graph_starts:
        shape = _local_batch_shape(trainer, moment)
        while not _fits(trainer, plan, moment, shape):
            plan, line = _reduce_memory(trainer, plan, shape, budgets)
            log(line)
    return plan


def _local_batch_shape(trainer: Trainer, moment: float) -> BatchShape:
    """The part of the batch that one process has."""
    shape = trainer.settings.batch_shape(moment)
    return shape._replace(rows=rows_per_rank(shape.rows, trainer.distributed.world_size))


def _estimated_tokens(trainer: Trainer, free: int, log: LogLine) -> int:
    """Tokens that fit `free` bytes, beside the gradients and as much again for an update's intermediate results."""
    shape = _local_batch_shape(trainer, trainer.graph_starts[-1])
    fixed = 2 * sum(p.numel() * p.element_size() for p in trainer.params.values())
    per_token = activation_bytes(trainer.build, trainer.device, shape.length)
    tokens = max_micro_tokens(free, fixed, per_token)
    rows = trainer.plan._replace(max_micro_tokens=tokens).micro_batch_rows(*shape)
    log(
        f"memory: {free / 1e9:.1f} GB free; forecast: {per_token:,.0f} bytes of activations a token and "
        f"{fixed / 1e9:.1f} GB besides, so that {rows} of {shape.rows} rows of {shape.length:,} tokens are read at a time"
    )
    return tokens


def _fits(trainer: Trainer, plan: ExecutionPlan, start: float, shape: BatchShape) -> bool:
    """Whether two micro batches pass forward and backward in every process. None reduces or updates anything."""
    limits, here = trainer.settings, trainer.device.torch_device
    whole = limits.batch_shape(start)
    batch = trainer.prefetcher.load_batch(0, rows=whole.rows, length=whole.length)
    rows = slice(0, plan.micro_batch_rows(*shape))
    fits = True
    with trainer.phases.rehearsal(), torch.random.fork_rng([here] if here.type == "cuda" else []):
        trainer.phases.advance(progress_at(start, limits.steps, limits.seconds), lambda: math.nan)
        try:
            for _ in range(2):  # the second adds to gradients that exist by then
                trainer.backward(batch, rows, plan.compute_loss)
        except torch.OutOfMemoryError:
            fits = False
    trainer.optimizer.zero_grad()
    if here.type == "cuda":
        torch.cuda.empty_cache()
    return bool(all_reduce_min(int(fits), trainer.distributed))


def _reduce_memory(
    trainer: Trainer, plan: ExecutionPlan, shape: BatchShape, budgets: list[float]
) -> tuple[ExecutionPlan, str]:
    """A plan that takes less memory, and a line for the log: fewer rows at a time, or the next of the `budgets`.

    A new budget drops every compiled graph of the process, as graphs are not compiled again for a budget alone.
    """
    rows = plan.micro_batch_rows(*shape)
    if rows > 1:
        plan = plan._replace(max_micro_tokens=(rows - 1) * shape.length)
        fewer = plan.micro_batch_rows(*shape)
        return plan, f"memory: {rows} rows at a time do not fit, so {fewer} of {shape.rows} are read at a time"
    if not budgets:
        raise BitgolfError(
            f"one row of {shape.length:,} tokens does not fit the memory of {trainer.device.torch_device}",
            where="train.length",
            hint="train on a device with more memory, set train.compile=on, or make the rows shorter",
        )
    budget = budgets.pop(0)
    torch._dynamo.reset()
    graph = compile_graph(trainer.loss_module, trainer.device.torch_device)
    line = f"memory: one row does not fit, so activations are recomputed ({budget:.0%} of them may be kept)"
    return plan._replace(compute_loss=_with_activation_budget(graph, budget)), line


def _with_activation_budget(compute_loss: LossFunction, budget: float) -> LossFunction:
    def limited(ids: Tensor, targets: Tensor) -> Tensor:
        with functorch.patch(activation_memory_budget=budget):
            return compute_loss(ids, targets)

    return limited
