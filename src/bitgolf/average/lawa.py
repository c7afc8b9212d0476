"""Latest weight averaging (Kaddour, arXiv 2209.14981): the uniform mean of the last few checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.average.average import Average, State, check_every, counter, floats, merge
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import Now


@register
class Lawa(Average):
    """The mean of the final weights and the snapshots before them, `keep` in all.

    Snapshots are taken at each `every`-th step from when the learning rate's scale is under `below`. A final step that
    was itself a snapshot counts once. Memory is `keep` times the weights, a ring in the state.
    """

    def __init__(self, *, every: int, keep: int, below: float) -> None:
        if keep < 2:
            raise RecipeError(f"a mean needs at least 2 checkpoints, got {keep}", place="Lawa.keep")
        self.every, self.keep, self.below = check_every(every, "Lawa.every"), keep, below

    @torch.no_grad()
    def start(self, params: list[Tensor]) -> State:
        ring = [torch.zeros((self.keep, *t.shape), device=t.device) for t in floats(params)]
        return {"ring": ring, "count": counter(), "steps_since": counter()}

    @torch.no_grad()
    def update(self, state: State, params: list[Tensor], now: Now, lr_scale: float) -> None:
        count, since = state["count"][0], state["steps_since"][0]
        since += 1
        if lr_scale < self.below and now.step % self.every == 0:
            slot = int(count) % self.keep
            torch._foreach_copy_([ring[slot] for ring in state["ring"]], floats(params))
            count += 1
            since.zero_()

    @torch.no_grad()
    def result(self, state: State, params: list[Tensor]) -> list[Tensor]:
        count = self.count(state)
        mean = [t.clone() for t in floats(params)]
        final = int(state["steps_since"][0]) == 0  # the newest snapshot is the final weights, counted already
        newest = count - 1 if final else count
        for n, i in enumerate(range(max(0, newest - self.keep + 1), newest), start=2):
            torch._foreach_lerp_(mean, [ring[i % self.keep] for ring in state["ring"]], 1.0 / n)
        return merge(mean, params)
