"""Stochastic weight averaging (Izmailov et al., arXiv 1803.05407): the uniform mean of snapshots late in a run."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.average.average import Average, State, check_every, counter, floats, merge
from bitgolf.config.registry import register
from bitgolf.runtime.progress import Now


@register
class Swa(Average):
    """The mean of the weights at each `every`-th step from when the learning rate's scale is under `below`."""

    def __init__(self, *, every: int, below: float) -> None:
        self.every, self.below = check_every(every, "Swa.every"), below

    @torch.no_grad()
    def start(self, params: list[Tensor]) -> State:
        return {"mean": [torch.zeros_like(t) for t in floats(params)], "count": counter()}

    @torch.no_grad()
    def update(self, state: State, params: list[Tensor], now: Now, lr_scale: float) -> None:
        if lr_scale < self.below and now.step % self.every == 0:
            state["count"][0] += 1
            # A running mean, not a sum: equal snapshots then stay what they are, to the last bit.
            torch._foreach_lerp_(state["mean"], floats(params), 1.0 / int(state["count"][0]))

    @torch.no_grad()
    def result(self, state: State, params: list[Tensor]) -> list[Tensor]:
        self.count(state)
        return merge(state["mean"], params)
