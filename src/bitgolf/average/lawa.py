"""Latest weight averaging (Kaddour, arXiv 2209.14981): the uniform mean of the last snapshots of the weights."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from bitgolf.average.average import Average, AverageState, check_interval, float_tensors, new_counter, restore_dtypes
from bitgolf.config.ranges import Count, Positive, Range
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import TrainingProgress


@register
class LAWA(Average):
    """The mean of the final weights and the latest snapshots before them, `keep` tensors in total per parameter.

    A snapshot is taken at every `every`-th step while the learning rate factor is below `lr_scale_below`. If the final
    step took a snapshot, it counts once. The state is a ring buffer of `keep` copies of the weights.
    """

    def __init__(self, *, every: Count, keep: Annotated[int, Range(2, 10_000)], lr_scale_below: Positive) -> None:
        if keep < 2:
            raise RecipeError(f"keep must be at least 2, got {keep}", where="LAWA.keep")
        self.every, self.keep, self.lr_scale_below = check_interval(every, "LAWA.every"), keep, lr_scale_below

    @torch.no_grad()
    def init_state(self, params: list[Tensor]) -> AverageState:
        ring = [torch.zeros((self.keep, *t.shape), device=t.device) for t in float_tensors(params)]
        return {"ring": ring, "count": new_counter(), "steps_since": new_counter()}

    @torch.no_grad()
    def update(self, state: AverageState, params: list[Tensor], progress: TrainingProgress, lr_scale: float) -> None:
        count, since = state["count"][0], state["steps_since"][0]
        since += 1
        if lr_scale < self.lr_scale_below and progress.step % self.every == 0:
            slot = int(count) % self.keep
            torch._foreach_copy_([ring[slot] for ring in state["ring"]], float_tensors(params))
            count += 1
            since.zero_()

    @torch.no_grad()
    def result(self, state: AverageState, params: list[Tensor]) -> list[Tensor]:
        count = self.snapshot_count(state)
        mean = [t.clone() for t in float_tensors(params)]
        final = int(state["steps_since"][0]) == 0  # the newest snapshot equals the final weights, which `mean` includes
        newest = count - 1 if final else count
        for n, i in enumerate(range(max(0, newest - self.keep + 1), newest), start=2):
            torch._foreach_lerp_(mean, [ring[i % self.keep] for ring in state["ring"]], 1.0 / n)
        return restore_dtypes(mean, params)
