"""Micro batches that fit the device: by forecast, then by trial, before the training clock starts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch._functorch.config as functorch
from torch import Tensor

from bitgolf.data.batches import share_of
from bitgolf.errors import BitgolfError
from bitgolf.runtime.compiler import compiled
from bitgolf.runtime.distributed import smallest
from bitgolf.train.activation_memory import activation_bytes, free_bytes, room
from bitgolf.train.batch_schedule import Shape
from bitgolf.train.execution_plan import ExecutionPlan, LossFunction
from bitgolf.train.phases import within
from bitgolf.train.trainer import Trainer

BUDGETS = (0.5, 0.25, 0.1, 0.0)
"""Shares of the activations that a compiled graph may keep, tried one after the other; the rest is computed twice
(inductor's `activation_memory_budget`)."""

Say = Callable[[str], None]


def forecast_memory(trainer: Trainer, say: Say) -> float:
    """The most tokens of a micro-batch by a forecast, the same in all processes; infinity where memory has no limit."""
    free = free_bytes(trainer.device.device)
    return math.inf if free is None else smallest(_forecast(trainer, free, say), trainer.world)


def fit_memory(trainer: Trainer, plan: ExecutionPlan, say: Say) -> ExecutionPlan:
    """The plan whose micro-batches fit the memory, found by trial, the same in all processes; weights stay as they are.

    Where a forward and backward pass runs out of memory, micro-batches get fewer rows; where one row is too much, a
    compiled graph recomputes activations. Raises `BitgolfError` where that is not enough.
    """
    if free_bytes(trainer.device.device) is None:
        return plan
    budgets = list(BUDGETS) if plan.compute_loss is not trainer.task else []
    for moment in trainer.moments:
        shape = _share(trainer, moment)
        while not _fits(trainer, plan, moment, shape):
            plan, line = _give_way(trainer, plan, shape, budgets)
            say(line)
    return plan


def _share(trainer: Trainer, moment: float) -> Shape:
    """The part of the batch that one process has."""
    shape = trainer.settings.shape(moment)
    return shape._replace(rows=share_of(shape.rows, trainer.world.size))


def _forecast(trainer: Trainer, free: int, say: Say) -> int:
    """Tokens that fit `free` bytes, beside the gradients and as much again for an update's intermediate results."""
    shape = _share(trainer, trainer.moments[-1])
    fixed = 2 * sum(p.numel() * p.element_size() for p in trainer.params.values())
    per_token = activation_bytes(trainer.build, trainer.device, shape.length)
    tokens = room(free, fixed, per_token)
    rows = trainer.plan._replace(max_micro_tokens=tokens).micro_batch_rows(*shape)
    say(
        f"memory: {free / 1e9:.1f} GB free; forecast: {per_token:,.0f} bytes of activations a token and "
        f"{fixed / 1e9:.1f} GB besides, so that {rows} of {shape.rows} rows of {shape.length:,} tokens are read at a time"
    )
    return tokens


def _fits(trainer: Trainer, plan: ExecutionPlan, moment: float, shape: Shape) -> bool:
    """Whether two micro batches pass forward and backward in every process. None reduces or updates anything."""
    limits, here = trainer.settings, trainer.device.device
    whole = limits.shape(moment)
    batch = trainer.prefetcher.batch(0, rows=whole.rows, length=whole.length)
    rows = slice(0, plan.micro_batch_rows(*shape))
    fits = True
    with trainer.phases.rehearsal(), torch.random.fork_rng([here] if here.type == "cuda" else []):
        trainer.phases.at(within(moment, limits.steps, limits.seconds), lambda: math.nan)
        try:
            for _ in range(2):  # the second adds to gradients that exist by then
                trainer.backward(batch, rows, plan.compute_loss)
        except torch.OutOfMemoryError:
            fits = False
    trainer.optimizer.zero_grad()
    if here.type == "cuda":
        torch.cuda.empty_cache()
    return bool(smallest(int(fits), trainer.world))


def _give_way(trainer: Trainer, plan: ExecutionPlan, shape: Shape, budgets: list[float]) -> tuple[ExecutionPlan, str]:
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
            f"one row of {shape.length:,} tokens does not fit the memory of {trainer.device.device}",
            place="train.length",
            mend="train on a device with more memory, set train.compile=on, or make the rows shorter",
        )
    budget = budgets.pop(0)
    torch._dynamo.reset()
    graph = compiled(trainer.task, trainer.device.device)
    line = f"memory: one row does not fit, so activations are recomputed ({budget:.0%} of them may be kept)"
    return plan._replace(compute_loss=_within_budget(graph, budget)), line


def _within_budget(compute_loss: LossFunction, budget: float) -> LossFunction:
    def limited(ids: Tensor, targets: Tensor) -> Tensor:
        with functorch.patch(activation_memory_budget=budget):
            return compute_loss(ids, targets)

    return limited
