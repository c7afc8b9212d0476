"""Decoupled weight decay (arXiv 1711.05101), with a schedule, and only where it agrees with the update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.optim.schedules import Schedule
from bitgolf.runtime.progress import TrainingProgress


class WeightDecay:
    """W <- W - lr amount d(t) W, with lr the scheduled rate and d a schedule that multiplies the amount.

    `cautious` (arXiv 2510.12402; in Parameter Golf #1512 it did much harm to quantization) lets only those entries decay
    which the update moves towards zero too, or leaves alone: update times weight is 0 or more.
    """

    def __init__(self, coefficient: float, schedule: Spec[Schedule] | None, *, cautious: bool, where: str) -> None:
        if not coefficient and (schedule or cautious):
            hint = "set weight_decay, or leave out weight_decay_schedule and cautious_weight_decay"
            raise RecipeError("a weight decay of 0 has no schedule and no caution", where=where, hint=hint)
        self.coefficient, self.cautious = coefficient, cautious
        self.schedule = schedule() if schedule else None

    def shrink_factor(self, progress: TrainingProgress, lr: float, lr_scale: float) -> float:
        """lr amount d(t), the fraction by which weights shrink in this step; `lr` is the scheduled rate."""
        factor = self.schedule.value(progress._replace(lr_scale=lr_scale)) if self.schedule else 1.0
        return lr * self.coefficient * factor

    def apply(self, params: Sequence[Tensor], updates: Sequence[Tensor], shrinkage: float | Tensor) -> None:
        """Shrink `params` in place. Of `updates`, which will be subtracted, only the signs count."""
        if not self.coefficient:
            return
        if not self.cautious:
            torch._foreach_mul_(list(params), 1.0 - shrinkage)
            return
        for p, update in zip(params, updates, strict=True):
            p.mul_(1.0 - shrinkage * (p * update >= 0))
