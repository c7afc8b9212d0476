"""Size of micro-batches that fits the device memory: by forecast, then by trial, before the training clock starts."""

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
from bitgolf.training.activation_memory import activation_bytes, available_bytes, max_micro_tokens
from bitgolf.training.batch_schedule import BatchShape
from bitgolf.training.execution_plan import ExecutionPlan, LossFunction
from bitgolf.training.phases import progress_at
from bitgolf.training.trainer import Trainer

ACTIVATION_BUDGETS = (0.5, 0.25, 0.1, 0.0)
"""Shares of the activations that a compiled graph may save, tried in this order; it recomputes the others in the
backward pass (`activation_memory_budget` of functorch)."""

LogLine = Callable[[str], None]


def estimate_micro_batch(trainer: Trainer, log: LogLine) -> float:
    """Forecast of the largest number of tokens of a micro-batch: the minimum over all processes; infinity on a CPU.

    log: receives a line about the forecast.
    """
    free = available_bytes(trainer.device.torch_device)
    return math.inf if free is None else all_reduce_min(_estimated_tokens(trainer, free, log), trainer.distributed)


def find_micro_batch(trainer: Trainer, plan: ExecutionPlan, log: LogLine) -> ExecutionPlan:
    """A plan whose micro-batches fit the memory, tested by forward and backward passes; the same in all processes.

    If a pass runs out of memory, micro-batches get fewer rows; if one row does not fit, a compiled graph recomputes
    activations. Weights do not change. Raises `BitgolfError` if memory is still not sufficient.
    """
    if available_bytes(trainer.device.torch_device) is None:
        return plan
    budgets = list(ACTIVATION_BUDGETS) if plan.compute_loss is not trainer.loss_module else []
    for start in trainer.graph_starts:
        shape = _local_batch_shape(trainer, start)
        while not _fits(trainer, plan, start, shape):
            plan, line = _reduce_memory(trainer, plan, shape, budgets)
            log(line)
    return plan


def _local_batch_shape(trainer: Trainer, progress: float) -> BatchShape:
    """The share of one process of the batch at a fraction of the run."""
    shape = trainer.settings.batch_shape(progress)
    return shape._replace(rows=rows_per_rank(shape.rows, trainer.distributed.world_size))


def _estimated_tokens(trainer: Trainer, free: int, log: LogLine) -> int:
    """Tokens whose activations fit `free` bytes, after gradients and as much again for temporaries of the optimizer."""
    shape = _local_batch_shape(trainer, trainer.graph_starts[-1])
    fixed = 2 * sum(p.numel() * p.element_size() for p in trainer.params.values())
    per_token = activation_bytes(trainer.build, trainer.device, shape.length)
    tokens = max_micro_tokens(free, fixed, per_token)
    rows = trainer.plan._replace(max_micro_tokens=tokens).micro_batch_rows(*shape)
    log(
        f"memory: {free / 1e9:.1f} GB free; forecast: {per_token:,.0f} bytes of activations per token and "
        f"{fixed / 1e9:.1f} GB fixed; micro-batches of {rows} of {shape.rows} rows of {shape.length:,} tokens"
    )
    return tokens


def _fits(trainer: Trainer, plan: ExecutionPlan, start: float, shape: BatchShape) -> bool:
    """Whether every process has memory for forward and backward of two micro-batches, without reduction or update.

    start: fraction of the run from which the batch has this shape.  shape: the batch of this process.
    """
    limits, here = trainer.settings, trainer.device.torch_device
    whole = limits.batch_shape(start)
    batch = trainer.prefetcher.load_batch(0, rows=whole.rows, length=whole.length)
    rows = slice(0, plan.micro_batch_rows(*shape))
    fits = True
    with trainer.phases.rehearsal(), torch.random.fork_rng([here] if here.type == "cuda" else []):
        trainer.phases.advance(progress_at(start, limits.steps, limits.seconds), lambda: math.nan)
        try:
            for _ in range(2):  # the second accumulates into existing gradients
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
    """A plan that needs less memory, and a line for the log: fewer rows per micro-batch, or the next of the `budgets`.

    A new budget discards all compiled graphs of the process, as a changed budget does not trigger recompilation.
    """
    rows = plan.micro_batch_rows(*shape)
    if rows > 1:
        plan = plan._replace(max_micro_tokens=(rows - 1) * shape.length)
        fewer = plan.micro_batch_rows(*shape)
        return plan, f"memory: {rows} rows per micro-batch do not fit; trying {fewer} of {shape.rows}"
    if not budgets:
        raise BitgolfError(
            f"one row of {shape.length:,} tokens does not fit the memory of {trainer.device.torch_device}",
            where="train.length",
            hint="train on a device with more memory, set train.compile=on, or reduce train.length",
        )
    budget = budgets.pop(0)
    torch._dynamo.reset()
    graph = compile_graph(trainer.loss_module, trainer.device.torch_device)
    line = f"memory: one row does not fit; recomputing activations (at most {budget:.0%} of them are saved)"
    return plan._replace(compute_loss=_with_activation_budget(graph, budget)), line


def _with_activation_budget(compute_loss: LossFunction, budget: float) -> LossFunction:
    """`compute_loss`, which is compiled at its first call, with this activation memory budget."""

    def limited(ids: Tensor, targets: Tensor) -> Tensor:
        with functorch.patch(activation_memory_budget=budget):
            return compute_loss(ids, targets)

    return limited
