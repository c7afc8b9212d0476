"""Stochastic weight averaging (Izmailov et al., arXiv 1803.05407): the uniform mean of snapshots late in training."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.average.average import Average, AverageState, check_interval, float_tensors, new_counter, restore_dtypes
from bitgolf.config.ranges import Count, Positive
from bitgolf.config.registry import register
from bitgolf.runtime.progress import TrainingProgress


@register
class SWA(Average):
    """The mean of the weights at every `every`-th step while the learning rate factor is below `lr_scale_below`."""

    def __init__(self, *, every: Count, lr_scale_below: Positive) -> None:
        self.every, self.lr_scale_below = check_interval(every, "SWA.every"), lr_scale_below

    @torch.no_grad()
    def init_state(self, params: list[Tensor]) -> AverageState:
        return {"mean": [t.new_zeros(t.shape) for t in float_tensors(params)], "count": new_counter()}

    @torch.no_grad()
    def update(self, state: AverageState, params: list[Tensor], progress: TrainingProgress, lr_scale: float) -> None:
        if lr_scale < self.lr_scale_below and progress.step % self.every == 0:
            state["count"][0] += 1
            # A running mean instead of a sum: the mean of equal snapshots is then bit-identical to them.
            torch._foreach_lerp_(state["mean"], float_tensors(params), 1.0 / int(state["count"][0]))

    @torch.no_grad()
    def result(self, state: AverageState, params: list[Tensor]) -> list[Tensor]:
        self.snapshot_count(state)
        return restore_dtypes(state["mean"], params)
