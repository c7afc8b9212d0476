"""Exponential moving average of the weights (Polyak averaging with a horizon)."""

from __future__ import annotations

import torch
from torch import Tensor

from bitgolf.average.average import Average, State, check_every, counter, floats, merge
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import Now


@register
class Ema(Average):
    """mean <- d mean + (1 - d) weights, with d = `decay` at each step: a horizon of about 1 / (1 - d) steps.

    `every` only saves time: with k, each k-th step counts with d^k, and the horizon in steps stays.
    The mean starts at the initial weights (as the public recipes do), which a short run never quite forgets: after n
    steps they still weigh d^n. `corrected` starts from nothing and divides that weight out, as Adam does.
    """

    def __init__(self, *, decay: float = 0.997, every: int = 1, corrected: bool = False) -> None:
        if not 0 <= decay < 1:
            raise RecipeError(f"a decay is in [0, 1), got {decay}", place="Ema.decay")
        self.every, self.corrected = check_every(every, "Ema.every"), corrected
        self.decay = decay**every

    @torch.no_grad()
    def start(self, params: list[Tensor]) -> State:
        seed = [torch.zeros_like(t) if self.corrected else t.clone() for t in floats(params)]
        return {"mean": seed, "count": counter()}

    @torch.no_grad()
    def update(self, state: State, params: list[Tensor], now: Now, lr_scale: float) -> None:
        if now.step % self.every == 0:
            torch._foreach_lerp_(state["mean"], floats(params), 1.0 - self.decay)
            state["count"][0] += 1

    @torch.no_grad()
    def result(self, state: State, params: list[Tensor]) -> list[Tensor]:
        count = self.count(state)
        total = 1.0 - self.decay**count if self.corrected else 1.0
        return merge(list(torch._foreach_div(state["mean"], total)), params)
