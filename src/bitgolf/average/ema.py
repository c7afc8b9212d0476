"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.average.average import Average, AverageState, check_interval, float_tensors, new_counter, restore_dtypes
from bitgolf.config.ranges import Count, FractionBelowOne
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import TrainingProgress


@register
class EMA(Average):
    """mean <- d mean + (1 - d) weights at each step, with d = `decay`. The horizon is about 1 / (1 - d) steps.

    every: update only at every k-th step, with d^k, which saves time and keeps the horizon in steps.
    bias_correction: start at zero and divide by the sum of the coefficients, as Adam does. Otherwise the mean starts at
    the initial weights, as in the published recipes; after n steps these still have the coefficient d^n.
    since: fraction of the run from which on weights are averaged. Above 0, the mean starts at the first of them (#641):
    weights of another objective, such as those before late fake quantization, are left out.
    """

    def __init__(
        self,
        *,
        decay: FractionBelowOne = 0.997,
        every: Count = 1,
        bias_correction: bool = False,
        since: FractionBelowOne = 0.0,
    ) -> None:
        if not 0 <= decay < 1:
            raise RecipeError(f"decay must be in [0, 1), got {decay}", where="EMA.decay")
        self.every, self.bias_correction = check_interval(every, "EMA.every"), bias_correction
        self.decay, self.since = decay**every, since

    @torch.no_grad()
    def init_state(self, params: list[Tensor]) -> AverageState:
        initial = [t.new_zeros(t.shape) if self.bias_correction else t.clone() for t in float_tensors(params)]
        return {"mean": initial, "count": new_counter()}

    @torch.no_grad()
    def update(self, state: AverageState, params: list[Tensor], progress: TrainingProgress, lr_scale: float) -> None:
        if progress.step % self.every or progress.fraction < self.since:
            return
        starts = self.since > 0 and not self.bias_correction and not state["count"][0]
        torch._foreach_lerp_(state["mean"], float_tensors(params), 1.0 if starts else 1.0 - self.decay)
        state["count"][0] += 1

    @torch.no_grad()
    def result(self, state: AverageState, params: list[Tensor]) -> list[Tensor]:
        count = self.snapshot_count(state)
        total = 1.0 - self.decay**count if self.bias_correction else 1.0
        return restore_dtypes(list(torch._foreach_div(state["mean"], total)), params)
