"""EMA-Nesterov: gradients are computed ahead of the weights, in the mean direction of their recent changes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitgolf.config.ranges import Fraction, FractionBelowOne, NonNegative
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError


class LookaheadState(NamedTuple):
    """One tensor per parameter in each list.

    mean_change: the running mean of the changes of the weights. A checkpoint needs nothing else.
    before: the weights before the current step, a buffer.
    """

    mean_change: list[Tensor]
    before: list[Tensor]


@register
class EMANesterov:
    """W_t+1 = A(W_t + b_t M_t), M_t+1 = decay M_t + (1 - decay) (W_t+1 - W_t), for any optimizer A and all weights.

    A computes its gradient at the weights to which it applies its update, W_t + b_t M_t. M_0 = 0. The step size b_t is
    `step_size` times the scheduled factor of the learning rate from the fraction `start` of the run up to `end`, and 0
    outside, where M is still updated. The state and its buffer are two copies of the weights, on every rank.
    Sources: arXiv 2605.25395; KellerJordan/modded-nanogpt, track 3, pull request 308 with Muon (the defaults: steps 500
    to 2,400 of 3,150; 3,125 steps instead of 3,325), and 309 with another system (0.3, steps 300 to 1,950 of 2,900),
    which later records keep. Their scripts multiply by the learning rate of the step before, the paper by that of the
    step, as here.
    """

    def __init__(
        self,
        *,
        step_size: NonNegative = 0.6,
        decay: FractionBelowOne = 0.99,
        start: Fraction = 0.1587,
        end: Fraction = 0.7619,
    ) -> None:
        if not start < end:
            raise RecipeError(f"start must be below end, got {start:g} and {end:g}", where="EMANesterov.start")
        self.step_size, self.decay, self.start, self.end = step_size, decay, start, end

    def init_state(self, params: list[Tensor]) -> LookaheadState:
        """Return the state before the first step, for floating-point parameters."""
        return LookaheadState([torch.zeros_like(p) for p in params], [torch.empty_like(p) for p in params])

    @torch.no_grad()
    def look_ahead(self, state: LookaheadState, params: list[Tensor], fraction: float, lr_scale: float) -> None:
        """Move the weights ahead, in place. Called before the forward pass of a step.

        fraction: fraction of the run.  lr_scale: learning rate factor of the step.
        """
        torch._foreach_copy_(state.before, params)
        if self.start <= fraction < self.end:
            torch._foreach_add_(params, state.mean_change, alpha=self.step_size * lr_scale)

    @torch.no_grad()
    def update(self, state: LookaheadState, params: list[Tensor]) -> None:
        """Add the change of the weights to its mean. Called after the optimizer step."""
        torch._foreach_lerp_(state.mean_change, torch._foreach_sub(params, state.before), 1.0 - self.decay)
