"""Muon: momentum, orthogonalized (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitgolf.clock import Now
from bitgolf.optim.algorithm import Algorithm, State
from bitgolf.optim.orthogonalize import NewtonSchulz, Orthogonalizer
from bitgolf.optim.schedules import Ramp, Schedule
from bitgolf.spec import Spec, part, register


@register
class Muon(Algorithm):
    """M <- mu M + G; W <- (1 - lr wd) W - lr sqrt(max(1, m/n)) orth(G + mu M) for each matrix W of m rows, n columns.

    Without `nesterov` it is orth(M). The factor gives updates of tall matrices the same size per output. Since `orth`
    forgets scale, neither (1 - mu) nor a bias correction is needed. Weight decay shrinks with the scheduled rate.
    Matrices of one shape are orthogonalized as one stack; leading axes of a parameter are a stack already.
    """

    least_dims = 2

    def __init__(
        self,
        *,
        lr: float = 0.02,
        momentum: Spec[Schedule] = part(Ramp, start=0.85, end=0.95, steps=500),
        orthogonalize: Spec[Orthogonalizer] = part(NewtonSchulz),
        nesterov: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        self.lr, self.nesterov, self.weight_decay = lr, nesterov, weight_decay
        self.momentum, self.orthogonalize = momentum(), orthogonalize()

    def start(self, params: list[Tensor]) -> State:
        return {"momentum": [torch.zeros_like(p) for p in params]}

    @torch.no_grad()
    def step(self, params: list[Tensor], grads: list[Tensor], state: State, now: Now, lr_scale: float) -> None:
        lr, updates = self.lr * lr_scale, self._directions(grads, state["momentum"], self.momentum.value(now))
        if self.weight_decay:
            torch._foreach_mul_(params, 1.0 - lr * self.weight_decay)
        for (*_, m, n), members in _by_shape(params).items():
            stack = self.orthogonalize(torch.stack([updates[i] for i in members]))
            rate = lr * math.sqrt(max(1.0, m / n))
            torch._foreach_add_([params[i] for i in members], stack.unbind(), alpha=-rate)

    def _directions(self, grads: list[Tensor], buffers: list[Tensor], mu: float) -> list[Tensor]:
        """Bring the momentum up to date and say where each matrix should go, before orthogonalization."""
        torch._foreach_mul_(buffers, mu)
        torch._foreach_add_(buffers, grads)
        return list(torch._foreach_add(grads, buffers, alpha=mu)) if self.nesterov else buffers


def _by_shape(params: list[Tensor]) -> dict[torch.Size, list[int]]:
    members: dict[torch.Size, list[int]] = {}
    for i, p in enumerate(params):
        members.setdefault(p.shape, []).append(i)
    return members
