"""Micro batches that fit the device: by forecast, then by trial, before the training clock starts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch._functorch.config as functorch
from torch import Tensor

from bitgolf.data.batches import share_of
from bitgolf.errors import BitgolfError
from bitgolf.runtime.distributed import smallest
from bitgolf.train.activation_memory import activation_bytes, free_bytes, room
from bitgolf.train.batch_schedule import Shape
from bitgolf.train.phases import within
from bitgolf.train.trainer import Trainer, compile_task

BUDGETS = (0.5, 0.25, 0.1, 0.0)
"""Shares of the activations that a compiled graph may keep, tried one after the other; the rest is computed twice
(inductor's `activation_memory_budget`)."""

Say = Callable[[str], None]


def forecast_memory(trainer: Trainer, say: Say) -> None:
    """Set how many rows pass through the model at a time by a forecast, the same in all processes."""
    free = free_bytes(trainer.device.device)
    if free is not None:
        trainer.room = smallest(_forecast(trainer, free, say), trainer.world)


def fit_memory(trainer: Trainer, say: Say) -> None:
    """Settle by trial how many rows pass through the model at a time, the same in all processes; weights stay as they are.

    Where the forecast was too low, that is where a forward and backward pass runs out of memory, there are fewer rows;
    where one row is too much, a compiled graph recomputes activations. Raises `BitgolfError` where that is not enough.
    """
    if free_bytes(trainer.device.device) is None:
        return
    budgets = list(BUDGETS) if trainer.run is not trainer.task else []
    for moment in trainer.moments:
        shape = _share(trainer, moment)
        while not _fits(trainer, moment, shape):
            say(_give_way(trainer, shape, budgets))
    trainer.phases.now = None


def _share(trainer: Trainer, moment: float) -> Shape:
    """The part of the batch that one process has."""
    shape = trainer.settings.shape(moment)
    return shape._replace(rows=share_of(shape.rows, trainer.world.size))


def _forecast(trainer: Trainer, free: int, say: Say) -> int:
    """Tokens that there is room for, beside the gradients and as much again for an update's intermediate results."""
    shape = _share(trainer, trainer.moments[-1])
    fixed = 2 * sum(p.numel() * p.element_size() for p in trainer.params.values())
    per_token = activation_bytes(trainer.build, trainer.device, shape.length)
    tokens = room(free, fixed, per_token)
    trainer.room = tokens
    rows = trainer.rows_at_once(*shape)
    say(
        f"memory: {free / 1e9:.1f} GB free; forecast: {per_token:,.0f} bytes of activations a token and "
        f"{fixed / 1e9:.1f} GB besides, so that {rows} of {shape.rows} rows of {shape.length:,} tokens are read at a time"
    )
    return tokens


def _fits(trainer: Trainer, moment: float, shape: Shape) -> bool:
    """Whether two micro batches pass forward and backward in every process. None reduces or updates anything."""
    limits, here = trainer.settings, trainer.device.device
    whole = limits.shape(moment)
    batch = trainer.prefetcher.batch(0, rows=whole.rows, length=whole.length)
    rows = slice(0, trainer.rows_at_once(*shape))
    trainer.phases.now = None
    trainer.phases.at(within(moment, limits.steps, limits.seconds), lambda: 0.0)
    fits = True
    with torch.random.fork_rng([here] if here.type == "cuda" else []):
        try:
            for _ in range(2):  # the second adds to gradients that exist by then
                trainer.backward(batch, rows)
        except torch.OutOfMemoryError:
            fits = False
    trainer.optimizer.zero_grad()
    if here.type == "cuda":
        torch.cuda.empty_cache()
    return bool(smallest(int(fits), trainer.world))


def _give_way(trainer: Trainer, shape: Shape, budgets: list[float]) -> str:
    """Take fewer rows at a time, or recompute more; returns what for the log."""
    rows = trainer.rows_at_once(*shape)
    if rows > 1:
        trainer.room = (rows - 1) * shape.length
        fewer = trainer.rows_at_once(*shape)
        return f"memory: {rows} rows at a time do not fit, so {fewer} of {shape.rows} are read at a time"
    if not budgets:
        raise BitgolfError(
            f"one row of {shape.length:,} tokens does not fit the memory of {trainer.device.device}",
            place="train.length",
            mend="train on a device with more memory, set train.compile=on, or make the rows shorter",
        )
    budget = budgets.pop(0)
    torch._dynamo.reset()  # graphs are not compiled anew where they differ in the budget alone
    compile_task(trainer, "on")
    trainer.run = _within_budget(trainer.run, budget)
    return f"memory: one row does not fit, so activations are recomputed ({budget:.0%} of them may be kept)"


def _within_budget(run: Callable[[Tensor, Tensor], Tensor], budget: float) -> Callable[[Tensor, Tensor], Tensor]:
    def limited(ids: Tensor, targets: Tensor) -> Tensor:
        with functorch.patch(activation_memory_budget=budget):
            return run(ids, targets)

    return limited
