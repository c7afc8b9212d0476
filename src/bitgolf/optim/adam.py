"""Adam (Kingma and Ba, arXiv 1412.6980) with decoupled weight decay (AdamW, arXiv 1711.05101)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bitgolf.config.ranges import Betas, Epsilon, LearningRate, WeightDecayFactor
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.optim.algorithm import OptimizerState, UpdateAlgorithm
from bitgolf.optim.schedules import Schedule
from bitgolf.optim.weight_decay import WeightDecay
from bitgolf.runtime.progress import TrainingProgress


@register
class Adam(UpdateAlgorithm):
    """W <- (1 - lr wd) W - lr m' / (sqrt(v') + eps), with m', v' the bias-corrected means of gradient and its square.

    weight_decay_schedule: multiplies `weight_decay`.  cautious_weight_decay: restricts which entries decay. Both are
    described at `WeightDecay`.

    The operations and their order are those of `torch.optim.Adam`. The state holds a step count per parameter, so that
    a resumed run applies the same bias correction. The counts are on the CPU, as in torch: reading one does not
    synchronize with the GPU.
    """

    def __init__(
        self,
        *,
        lr: LearningRate,
        betas: Betas = (0.9, 0.95),
        eps: Epsilon = 1e-8,
        weight_decay: WeightDecayFactor = 0.0,
        weight_decay_schedule: Spec[Schedule] | None = None,
        cautious_weight_decay: bool = False,
    ) -> None:
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay_schedule = WeightDecay(
            weight_decay, weight_decay_schedule, cautious=cautious_weight_decay, where="Adam.weight_decay"
        )

    def init_state(self, params: list[Tensor]) -> OptimizerState:
        return {
            "steps": [torch.zeros((), dtype=torch.int64) for _ in params],
            "m": [p.new_zeros(p.shape) for p in params],
            "v": [p.new_zeros(p.shape) for p in params],
        }

    @torch.no_grad()
    def step(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        state: OptimizerState,
        progress: TrainingProgress,
        lr_scale: float,
    ) -> None:
        (beta1, beta2), lr = self.betas, self.lr * lr_scale
        m, v = state["m"], state["v"]
        torch._foreach_add_(state["steps"], 1)
        t = int(state["steps"][0].numpy())  # all parameters of a group are stepped together, so all counts are equal
        torch._foreach_lerp_(m, grads, 1.0 - beta1)
        self.weight_decay_schedule.apply(params, m, self.weight_decay_schedule.shrink_factor(progress, lr, lr_scale))
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1.0 - beta2)
        root = torch._foreach_sqrt(v)
        torch._foreach_div_(root, math.sqrt(1.0 - beta2**t))
        torch._foreach_add_(root, self.eps)
        torch._foreach_addcdiv_(params, m, root, -lr / (1.0 - beta1**t))
