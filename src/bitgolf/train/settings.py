"""What a recipe says about training."""

from __future__ import annotations

from typing import Literal

from bitgolf.config.registry import register
from bitgolf.config.rules import Rule
from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import Order, Shuffled
from bitgolf.errors import RecipeError
from bitgolf.model.interfaces import Objective
from bitgolf.optim.algorithm import Algorithm
from bitgolf.optim.schedules import Schedule
from bitgolf.train.batch_schedule import Growth, Shape


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
        optim: tuple[Spec[Rule[Algorithm]], ...],
        schedule: Spec[Schedule],
        seconds: float = 600.0,
        steps: int = 0,
        micro_rows: int = 0,
        order: Spec[Order] = part(Shuffled),
        ramp: tuple[Spec[Growth], ...] = (),
        clip: float = 0.0,
        compile: Literal["auto", "on", "off"] = "auto",
        kernels: Literal["auto", "fast", "plain"] = "auto",
        checkpoint_seconds: float = 30.0,
    ) -> None:
        if seconds <= 0 and steps <= 0:
            raise RecipeError("training has no end", place="train", mend="set train.seconds or train.steps")
        if rows < 1 or length < 2 or micro_rows < 0:
            raise RecipeError(f"a batch of {rows} x {length} tokens is not one", place="train")
        if clip < 0:
            raise RecipeError(f"a largest norm of {clip} would turn every gradient round", place="train.clip")
        self.seconds, self.steps = max(seconds, 0.0), max(steps, 0)
        self.rows, self.length, self.micro_rows = rows, length, micro_rows
        self.objective, self.optim, self.schedule = objective, optim, schedule
        self.order, self.clip, self.compile, self.kernels = order, clip, compile, kernels
        self.checkpoint_seconds = checkpoint_seconds
        self.ramps = [spec() for spec in ramp]
        if any(min(shape.rows, shape.length - 1) < 1 for shape in map(self.shape, self.moments)):
            raise RecipeError("at the start the batch is no batch", place="train.ramp")

    @property
    def moments(self) -> list[float]:
        """The fractions of the run from which the batch has another shape, the start included."""
        return sorted({0.0, *(moment for ramp in self.ramps for moment in ramp.moments)})

    def shape(self, progress: float) -> Shape:
        """The global batch when so much of the run is done."""
        shape = Shape(self.rows, self.length)
        for ramp in self.ramps:
            shape = ramp.apply(shape, progress)
        return shape
