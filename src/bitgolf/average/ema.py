"""Exponential moving average of the weights (Polyak averaging with a horizon)."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.average.average import Average, AverageState, check_interval, float_tensors, new_counter, restore_dtypes
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import TrainingProgress


@register
class EMA(Average):
    """mean <- d mean + (1 - d) weights, with d = `decay` at each step: a horizon of about 1 / (1 - d) steps.

    `every` only saves time: with k, each k-th step counts with d^k, and the horizon in steps stays.
    The mean starts at the initial weights (as the public recipes do), which a short run never quite forgets: after n
    steps they still weigh d^n. `bias_correction` starts from nothing and divides that weight out, as Adam does.
    """

    def __init__(self, *, decay: float = 0.997, every: int = 1, bias_correction: bool = False) -> None:
        if not 0 <= decay < 1:
            raise RecipeError(f"a decay is in [0, 1), got {decay}", where="EMA.decay")
        self.every, self.bias_correction = check_interval(every, "EMA.every"), bias_correction
        self.decay = decay**every

    @torch.no_grad()
    def init_state(self, params: list[Tensor]) -> AverageState:
        seed = [torch.zeros_like(t) if self.bias_correction else t.clone() for t in float_tensors(params)]
        return {"mean": seed, "count": new_counter()}

    @torch.no_grad()
    def update(self, state: AverageState, params: list[Tensor], progress: TrainingProgress, lr_scale: float) -> None:
        if progress.step % self.every == 0:
            torch._foreach_lerp_(state["mean"], float_tensors(params), 1.0 - self.decay)
            state["count"][0] += 1

    @torch.no_grad()
    def result(self, state: AverageState, params: list[Tensor]) -> list[Tensor]:
        count = self.snapshot_count(state)
        total = 1.0 - self.decay**count if self.bias_correction else 1.0
        return restore_dtypes(list(torch._foreach_div(state["mean"], total)), params)
