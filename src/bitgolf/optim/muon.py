"""Muon: orthogonalized momentum (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bitgolf.config.ranges import LearningRate, WeightDecayFactor
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.optim.algorithm import CompileFunction, OptimizerState, UpdateAlgorithm, UpdateFunction
from bitgolf.optim.muon_transforms import MatrixSplit, PostOrthogonalization, PreOrthogonalization, TransformState
from bitgolf.optim.orthogonalize import NewtonSchulz, Orthogonalizer
from bitgolf.optim.schedules import LinearRamp, Schedule
from bitgolf.optim.weight_decay import WeightDecay
from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@register
class Muon(UpdateAlgorithm):
    """M <- mu M + G; W <- (1 - lr wd) W - lr sqrt(max(1, m/n)) orth(G + mu M) for each matrix W of m rows, n columns.

    Without `nesterov`, orth(M) is used. The factor gives updates of tall matrices the same size per output. `orth` is
    invariant to scale, so neither a factor (1 - mu) nor a bias correction is needed. Matrices of one shape are updated
    as one stack (`StackedParameterGroup`).

    pre_orthogonalize, post_orthogonalize: transforms of the update before and after `orth`.
    split: how a matrix is divided into blocks that are orthogonalized independently.
    weight_decay_schedule, cautious_weight_decay: see `WeightDecay`. Weight decay is proportional to the scheduled rate.
    shard: whether each rank updates only its shard of every stack: `auto` with several ranks, `on` always, `off` never.
    reduce_dtype: dtype in which sharded gradients are reduced.  momentum_dtype: dtype of the momentum. Both are
    bfloat16 in the Parameter Golf scripts with parameter banks (#399, #549, #1530 to #1855). Here an update computes in
    float32.
    """

    stacked = True

    def __init__(
        self,
        *,
        lr: LearningRate = 0.02,
        momentum: Spec[Schedule] = part(LinearRamp, start=0.85, end=0.95, steps=500),
        orthogonalize: Spec[Orthogonalizer] = part(NewtonSchulz),
        nesterov: bool = True,
        weight_decay: WeightDecayFactor = 0.0,
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
            return "Muon requires at least 2 dimensions"
        return self.split.unsupported_reason(shape) if self.split else ""

    def is_sharded(self, distributed: DistributedContext) -> bool:
        return self.shard == "on" or (self.shard == "auto" and distributed.world_size > 1)

    def init_state(self, params: list[Tensor]) -> OptimizerState:
        state: OptimizerState = {"momentum": [p.new_zeros(p.shape, dtype=self.buffer_dtype) for p in params]}
        for k, pre_transform in enumerate(self.pre_orthogonalize):
            for one in map(pre_transform.init_state, params):
                for name, tensor in one.items():
                    state.setdefault(f"before.{k}.{name}", []).append(tensor)
        for k, post_transform in enumerate(self.post_orthogonalize):
            state[f"after.{k}"] = [post_transform.init_state(p) for p in params]
        return state

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
        """One step. `update` is `_update` or its compiled graph."""
        lr, mu = self.lr * lr_scale, self.momentum.value(progress)
        shrinkage = self.weight_decay_schedule.shrink_factor(progress, lr, lr_scale)
        for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
            m, n = p.shape[-2:]
            rates = [torch.full((), x, device=p.device) for x in (mu, -lr * math.sqrt(max(1.0, m / n)), shrinkage)]
            before = [_transform_state(state, k, i) for k in range(len(self.pre_orthogonalize))]
            after = [state[f"after.{k}"][i] for k in range(len(self.post_orthogonalize))]
            update(p, grad, state["momentum"][i], before, after, *rates)
            for pre_transform, transform_state in zip(self.pre_orthogonalize, before, strict=True):
                pre_transform.observe(grad.to(p.dtype), transform_state, progress.step)

    def _update(
        self,
        params: Tensor,
        grads: Tensor,
        momentum: Tensor,
        before: list[TransformState],
        after: list[Tensor],
        mu: Tensor,
        rate: Tensor,
        shrinkage: Tensor,
    ) -> None:
        """Update a stack (..., m, n), its momentum and its transform states in place.

        before, after: states of the transforms before and after orthogonalization.
        mu, rate, shrinkage: scalar tensors, i.e. momentum, negative step size and fraction of weight decay.
        The scalars are tensors: as Python numbers they would be constants of the compiled graph and cause a
        recompilation at each step. `addcmul` rounds once, like an addition with a scalar factor.
        """
        momentum.mul_(mu).add_(grads)
        grads, buffer = grads.to(params.dtype), momentum.to(params.dtype)
        x = torch.addcmul(grads, buffer, mu) if self.nesterov else buffer
        for pre_transform, transform_state in zip(self.pre_orthogonalize, before, strict=True):
            x = pre_transform(x, transform_state)
        x = self.split.merge(self.orthogonalize(self.split.split(x))) if self.split else self.orthogonalize(x)
        for post_transform, post_state in zip(self.post_orthogonalize, after, strict=True):
            x = post_transform(x, post_state)
        self.weight_decay_schedule.apply([params], [x], shrinkage)
        params.addcmul_(x, rate)


def _transform_state(state: OptimizerState, transform: int, param: int) -> TransformState:
    """The state of one transform before orthogonalization for one parameter, by name. Both are given by number."""
    prefix = f"before.{transform}."
    return {key.removeprefix(prefix): tensors[param] for key, tensors in state.items() if key.startswith(prefix)}
