"""The training settings of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from bitgolf.config.ranges import BatchRows, BatchRowsOrZero, CountOrZero, NonNegative, Range, Seconds
from bitgolf.config.registry import register
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import DataOrder, ShuffledWindows
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import Objective
from bitgolf.optim.algorithm import UpdateAlgorithm
from bitgolf.optim.ema_nesterov import EMANesterov
from bitgolf.optim.schedules import Schedule
from bitgolf.training.batch_schedule import BatchSchedule, BatchShape
from bitgolf.training.validation import Validation


@register
class Train:
    """Limits, batch, optimizer rules and schedules of training.

    seconds, steps: training ends at the first limit; 0 is no limit, and at least one must be set.
    rows, length: the global batch has `rows` sequences of `length` tokens, for any number of processes.
    batch_warmup: smaller batches early in training.
    micro_rows: largest number of sequences per micro-batch of a process; 0 is its whole batch. On a GPU it is reduced
    to fit the memory, which changes only the rounding of sums.
    lookahead: where gradients are computed, if not at the weights.
    grad_clip: largest norm of the gradient; 0 is no clipping.  checkpoint_seconds: interval between checkpoints.
    compile: `auto` compiles on CUDA.  kernels: `auto` uses fused kernels where they match the reference and are faster,
    `fast` requires them, `plain` uses none.  validation: held-out text is scored during training; None for not.
    """

    omitted_at_default = ("validation",)
    """Arguments that the JSON form leaves out at their default: recipes without them keep the hash that they had before."""

    def __init__(
        self,
        *,
        rows: BatchRows,
        length: Annotated[int, Range(2, 2**24)],
        objective: Spec[Objective],
        optim: tuple[Spec[Rule[UpdateAlgorithm]], ...],
        lr_schedule: Spec[Schedule],
        seconds: Seconds = 600.0,
        steps: CountOrZero = 0,
        micro_rows: BatchRowsOrZero = 0,
        order: Spec[DataOrder] = part(ShuffledWindows),
        batch_warmup: tuple[Spec[BatchSchedule], ...] = (),
        lookahead: Spec[EMANesterov] | None = None,
        grad_clip: NonNegative = 0.0,
        compile: Literal["auto", "on", "off"] = "auto",
        kernels: Literal["auto", "fast", "plain"] = "auto",
        checkpoint_seconds: Seconds = 30.0,
        validation: Spec[Validation] | None = None,
    ) -> None:
        if seconds == 0 and steps == 0:
            message = f"training has no limit: seconds is {seconds:g} and steps is {steps}"
            raise RecipeError(message, where="train", hint="set train.seconds or train.steps")
        self.seconds, self.steps = float(seconds), steps
        self.rows, self.length, self.micro_rows = rows, length, micro_rows
        self.objective, self.optim, self.lr_schedule = objective, optim, lr_schedule
        self.order, self.grad_clip, self.compile, self.kernels = order, grad_clip, compile, kernels
        self.checkpoint_seconds = checkpoint_seconds
        self.lookahead = lookahead() if lookahead else None
        self.validation = validation() if validation else None
        self.batch_warmups = [spec() for spec in batch_warmup]
        for smaller in map(self.batch_shape, self.batch_shape_starts):
            if min(smaller.rows, smaller.length - 1) < 1:
                message = f"a batch must have at least 1 row of 2 tokens, got {smaller.rows} of {smaller.length}"
                raise RecipeError(message, where="train.batch_warmup")

    @property
    def batch_shape_starts(self) -> list[float]:
        """Fractions of the run at which the shape of the batch changes, 0 included."""
        return sorted({0.0, *(start for warmup in self.batch_warmups for start in warmup.starts)})

    def batch_shape(self, progress: float) -> BatchShape:
        """Shape of the global batch at a fraction of the run."""
        shape = BatchShape(self.rows, self.length)
        for warmup in self.batch_warmups:
            shape = warmup.apply(shape, progress)
        return shape
