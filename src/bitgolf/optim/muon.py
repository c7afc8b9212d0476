"""Muon: momentum, orthogonalized (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.optim.algorithm import CompileFunction, OptimizerState, UpdateAlgorithm, UpdateFunction
from bitgolf.optim.muon_transforms import MatrixSplit, PostOrthogonalization, PreOrthogonalization
from bitgolf.optim.orthogonalize import NewtonSchulz, Orthogonalizer
from bitgolf.optim.schedules import LinearRamp, Schedule
from bitgolf.optim.weight_decay import WeightDecay
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@register
class Muon(UpdateAlgorithm):
    """M <- mu M + G; W <- (1 - lr wd) W - lr sqrt(max(1, m/n)) orth(G + mu M) for each matrix W of m rows, n columns.

    Without `nesterov` it is orth(M). The factor gives updates of tall matrices the same size per output. Since `orth`
    forgets scale, neither (1 - mu) nor a bias correction is needed. Weight decay shrinks with the scheduled rate;
    `weight_decay_schedule` multiplies it, and `cautious_weight_decay` confines it (see `WeightDecay`).

    `pre_orthogonalize` and `post_orthogonalize` change the update around `orth`, which acts on the `split` of a matrix where it has any.
    Matrices of one shape are stepped as one stack (`StackedParameterGroup`).
    `shard`: each of several processes steps a share of every stack (`auto`), or a lone process too (`on`), or each
    steps all of them (`off`).
    `reduce_dtype`: the type in which sharded gradients travel. `momentum_dtype`: the type of the momentum. Parameter Golf's scripts
    with parameter banks (#399, #549, #1530 to #1855) had bfloat16 for both; the sums of a step are in float32 here.
    """

    stacked = True

    def __init__(
        self,
        *,
        lr: float = 0.02,
        momentum: Spec[Schedule] = part(LinearRamp, start=0.85, end=0.95, steps=500),
        orthogonalize: Spec[Orthogonalizer] = part(NewtonSchulz),
        nesterov: bool = True,
        weight_decay: float = 0.0,
        weight_decay_schedule: Spec[Schedule] | None = None,
        cautious_weight_decay: bool = False,
        pre_orthogonalize: tuple[Spec[PreOrthogonalization], ...] = (),
        post_orthogonalize: tuple[Spec[PostOrthogonalization], ...] = (),
        split: Spec[MatrixSplit] | None = None,
        shard: Literal["auto", "on", "off"] = "auto",
        reduce_dtype: Literal["float32", "bfloat16"] = "float32",
        momentum_dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.reduce_dtype, self.buffer_dtype = _TYPES[reduce_dtype], _TYPES[momentum_dtype]
        self.lr, self.nesterov, self.shard = lr, nesterov, shard
        self.momentum, self.orthogonalize = momentum(), orthogonalize()
        self.weight_decay_schedule = WeightDecay(
            weight_decay, weight_decay_schedule, cautious=cautious_weight_decay, where="Muon.weight_decay"
        )
        self.pre_orthogonalize, self.post_orthogonalize = (
            [node() for node in pre_orthogonalize],
            [node() for node in post_orthogonalize],
        )
        self.split = split() if split else None

    def unsupported_reason(self, shape: torch.Size) -> str:
        if len(shape) < 2:
            return "Muon takes tensors of 2 axes or more"
        return self.split.unsupported_reason(shape) if self.split else ""

    def is_sharded(self, distributed: DistributedContext) -> bool:
        return self.shard == "on" or (self.shard == "auto" and distributed.world_size > 1)

    def init_state(self, params: list[Tensor]) -> OptimizerState:
        memories = {
            f"after.{k}": [after.init_state(p) for p in params] for k, after in enumerate(self.post_orthogonalize)
        }
        return {"momentum": [torch.zeros_like(p, dtype=self.buffer_dtype) for p in params], **memories}

    def compile(self, compile_fn: CompileFunction) -> UpdateFunction:
        return partial(self._step_with, compile_fn(self._update))

    def step(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        state: OptimizerState,
        progress: TrainingProgress,
        lr_scale: float,
    ) -> None:
        self._step_with(self._update, params, grads, state, progress, lr_scale)

    @torch.no_grad()
    def _step_with(
        self,
        update: Callable[..., None],
        params: list[Tensor],
        grads: list[Tensor],
        state: OptimizerState,
        progress: TrainingProgress,
        lr_scale: float,
    ) -> None:
        """One step, in which `update` is `_update` or a compiled graph of it."""
        lr, mu = self.lr * lr_scale, self.momentum.value(progress)
        shrinkage = self.weight_decay_schedule.shrink_factor(progress, lr, lr_scale)
        for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
            m, n = p.shape[-2:]
            rates = [torch.full((), x, device=p.device) for x in (mu, -lr * math.sqrt(max(1.0, m / n)), shrinkage)]
            memories = [state[f"after.{k}"][i] for k in range(len(self.post_orthogonalize))]
            update(p, grad, state["momentum"][i], memories, *rates)

    def _update(
        self,
        params: Tensor,
        grads: Tensor,
        momentum: Tensor,
        memories: list[Tensor],
        mu: Tensor,
        rate: Tensor,
        shrinkage: Tensor,
    ) -> None:
        """One step of a stack (..., m, n) in place: all of it but the gradients changes, the last three are numbers ().

        One graph when compiled. What follows a schedule comes as a tensor, since a Python number would be a constant of
        the graph, and each step would compile another. `addcmul` rounds once, as adding with a factor does.
        """
        momentum.mul_(mu).add_(grads)
        grads, buffer = grads.to(params.dtype), momentum.to(params.dtype)
        x = torch.addcmul(grads, buffer, mu) if self.nesterov else buffer
        for before in self.pre_orthogonalize:
            x = before(x)
        x = self.split.merge(self.orthogonalize(self.split.split(x))) if self.split else self.orthogonalize(x)
        for after, memory in zip(self.post_orthogonalize, memories, strict=True):
            x = after(x, memory)
        self.weight_decay_schedule.apply([params], [x], shrinkage)
        params.addcmul_(x, rate)
