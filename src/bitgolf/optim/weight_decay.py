"""Decoupled weight decay (arXiv 1711.05101), optionally scheduled and cautious."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.optim.schedules import Schedule
from bitgolf.runtime.progress import TrainingProgress


class WeightDecay:
    """W <- W - lr wd d(t) W, with lr the scheduled learning rate, wd the coefficient and d the schedule (1 if None).

    cautious: only entries with update * weight >= 0 decay, i.e. those that the update does not move away from zero
    (arXiv 2510.12402). In Parameter Golf #1512 it increased the quantization loss considerably.
    Raises `RecipeError` if the coefficient is 0 although a schedule or `cautious` is set.
    """

    def __init__(self, coefficient: float, schedule: Spec[Schedule] | None, *, cautious: bool, where: str) -> None:
        if not coefficient and (schedule or cautious):
            name = "weight_decay_schedule" if schedule else "cautious_weight_decay"
            hint = f"set weight_decay to a positive value, or remove {name}"
            raise RecipeError(f"weight_decay is 0, so {name} has no effect", where=where, hint=hint)
        self.coefficient, self.cautious = coefficient, cautious
        self.schedule = schedule() if schedule else None

    def shrink_factor(self, progress: TrainingProgress, lr: float, lr_scale: float) -> float:
        """lr wd d(t), the fraction by which weights decay in this step. `lr` is the scheduled learning rate."""
        factor = self.schedule.value(progress._replace(lr_scale=lr_scale)) if self.schedule else 1.0
        return lr * self.coefficient * factor

    def apply(self, params: Sequence[Tensor], updates: Sequence[Tensor], shrinkage: float | Tensor) -> None:
        """Decay `params` in place. Only the signs of `updates`, which are subtracted from the parameters, are used."""
        if not self.coefficient:
            return
        if not self.cautious:
            torch._foreach_mul_(list(params), 1.0 - shrinkage)
            return
        for p, update in zip(params, updates, strict=True):
            p.mul_(1.0 - shrinkage * (p * update >= 0))
