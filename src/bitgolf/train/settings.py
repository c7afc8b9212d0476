"""What a recipe says about training."""

from __future__ import annotations

from typing import Literal

from bitgolf.config.registry import register
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import DataOrder, ShuffledWindows
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import Objective
from bitgolf.optim.algorithm import UpdateAlgorithm
from bitgolf.optim.schedules import Schedule
from bitgolf.train.batch_schedule import BatchSchedule, BatchShape


@register
class Train:
    """Limits, batch, optimizer rules and schedules of a run.

    seconds, steps: the first that is reached ends training; 0 is no limit, and one of them must be set.
    rows, length: a global batch is `rows` sequences of `length` tokens, whatever the number of processes.
    ramp: how the batch grows to that.
    micro_rows: most sequences that a process passes through the model at a time; 0 is all of its share. Where the memory
    of a GPU does not hold them it takes fewer, which changes no more than how sums are rounded.
    clip: the gradient's largest norm; 0 is none.  checkpoint_seconds: how often state is saved.
    kernels: `auto` takes fused kernels where they are able, `fast` refuses to train where one is not, `plain` takes none.
    """

    def __init__(
        self,
        *,
        rows: int,
        length: int,
        objective: Spec[Objective],
        optim: tuple[Spec[Rule[UpdateAlgorithm]], ...],
        lr_schedule: Spec[Schedule],
        seconds: float = 600.0,
        steps: int = 0,
        micro_rows: int = 0,
        order: Spec[DataOrder] = part(ShuffledWindows),
        batch_warmup: tuple[Spec[BatchSchedule], ...] = (),
        grad_clip: float = 0.0,
        compile: Literal["auto", "on", "off"] = "auto",
        kernels: Literal["auto", "fast", "plain"] = "auto",
        checkpoint_seconds: float = 30.0,
    ) -> None:
        if seconds <= 0 and steps <= 0:
            raise RecipeError("training has no end", where="train", hint="set train.seconds or train.steps")
        if rows < 1 or length < 2 or micro_rows < 0:
            raise RecipeError(f"a batch of {rows} x {length} tokens is not one", where="train")
        if grad_clip < 0:
            raise RecipeError(f"a largest norm of {grad_clip} would turn every gradient round", where="train.grad_clip")
        self.seconds, self.steps = max(seconds, 0.0), max(steps, 0)
        self.rows, self.length, self.micro_rows = rows, length, micro_rows
        self.objective, self.optim, self.lr_schedule = objective, optim, lr_schedule
        self.order, self.grad_clip, self.compile, self.kernels = order, grad_clip, compile, kernels
        self.checkpoint_seconds = checkpoint_seconds
        self.batch_warmups = [spec() for spec in batch_warmup]
        if any(min(shape.rows, shape.length - 1) < 1 for shape in map(self.batch_shape, self.batch_shape_starts)):
            raise RecipeError("at the start the batch is no batch", where="train.batch_warmup")

    @property
    def batch_shape_starts(self) -> list[float]:
        """The fractions of the run from which the batch has another shape, the start included."""
        return sorted({0.0, *(moment for ramp in self.batch_warmups for moment in ramp.starts)})

    def batch_shape(self, progress: float) -> BatchShape:
        """The global batch when so much of the run is done."""
        shape = BatchShape(self.rows, self.length)
        for ramp in self.batch_warmups:
            shape = ramp.apply(shape, progress)
        return shape
