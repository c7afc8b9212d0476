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
from bitgolf.optim.algorithm import Algorithm, Compiling, State, UpdateFunction
from bitgolf.optim.muon_transforms import After, Before, Pieces
from bitgolf.optim.orthogonalize import NewtonSchulz, Orthogonalizer
from bitgolf.optim.schedules import Ramp, Schedule
from bitgolf.optim.weight_decay import WeightDecay
from bitgolf.runtime.distributed import World
from bitgolf.runtime.progress import Now

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@register
class Muon(Algorithm):
    """M <- mu M + G; W <- (1 - lr wd) W - lr sqrt(max(1, m/n)) orth(G + mu M) for each matrix W of m rows, n columns.

    Without `nesterov` it is orth(M). The factor gives updates of tall matrices the same size per output. Since `orth`
    forgets scale, neither (1 - mu) nor a bias correction is needed. Weight decay shrinks with the scheduled rate;
    `decay` multiplies it, and `cautious` confines it (see `WeightDecay`).

    `before` and `after` change the update around `orth`, which acts on the `pieces` of a matrix where it has any.
    Matrices of one shape are stepped as one stack (`StackedGroup`).
    `shard`: each of several processes steps a share of every stack (`auto`), or a lone process too (`on`), or each
    steps all of them (`off`).
    `reduce`: the type in which sharded gradients travel. `buffer`: the type of the momentum. Parameter Golf's scripts
    with parameter banks (#399, #549, #1530 to #1855) had bfloat16 for both; the sums of a step are in float32 here.
    """

    stacked = True

    def __init__(
        self,
        *,
        lr: float = 0.02,
        momentum: Spec[Schedule] = part(Ramp, start=0.85, end=0.95, steps=500),
        orthogonalize: Spec[Orthogonalizer] = part(NewtonSchulz),
        nesterov: bool = True,
        weight_decay: float = 0.0,
        decay: Spec[Schedule] | None = None,
        cautious: bool = False,
        before: tuple[Spec[Before], ...] = (),
        after: tuple[Spec[After], ...] = (),
        pieces: Spec[Pieces] | None = None,
        shard: Literal["auto", "on", "off"] = "auto",
        reduce: Literal["float32", "bfloat16"] = "float32",
        buffer: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.reduce_dtype, self.buffer_dtype = _TYPES[reduce], _TYPES[buffer]
        self.lr, self.nesterov, self.shard = lr, nesterov, shard
        self.momentum, self.orthogonalize = momentum(), orthogonalize()
        self.decay = WeightDecay(weight_decay, decay, cautious=cautious, place="Muon.weight_decay")
        self.before, self.after = [node() for node in before], [node() for node in after]
        self.pieces = pieces() if pieces else None

    def unfit(self, shape: torch.Size) -> str:
        if len(shape) < 2:
            return "Muon takes tensors of 2 axes or more"
        return self.pieces.unfit(shape) if self.pieces else ""

    def shards(self, world: World) -> bool:
        return self.shard == "on" or (self.shard == "auto" and world.size > 1)

    def start(self, params: list[Tensor]) -> State:
        memories = {f"after.{k}": [after.start(p) for p in params] for k, after in enumerate(self.after)}
        return {"momentum": [torch.zeros_like(p, dtype=self.buffer_dtype) for p in params], **memories}

    def compile(self, compiling: Compiling) -> UpdateFunction:
        return partial(self._step_with, compiling(self._update))

    def step(self, params: list[Tensor], grads: list[Tensor], state: State, now: Now, lr_scale: float) -> None:
        self._step_with(self._update, params, grads, state, now, lr_scale)

    @torch.no_grad()
    def _step_with(
        self,
        update: Callable[..., None],
        params: list[Tensor],
        grads: list[Tensor],
        state: State,
        now: Now,
        lr_scale: float,
    ) -> None:
        """One step, in which `update` is `_update` or a compiled graph of it."""
        lr, mu = self.lr * lr_scale, self.momentum.value(now)
        shrinkage = self.decay.shrinkage(now, lr, lr_scale)
        for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
            m, n = p.shape[-2:]
            rates = [torch.full((), x, device=p.device) for x in (mu, -lr * math.sqrt(max(1.0, m / n)), shrinkage)]
            memories = [state[f"after.{k}"][i] for k in range(len(self.after))]
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
        for before in self.before:
            x = before(x)
        x = self.pieces.join(self.orthogonalize(self.pieces.cut(x))) if self.pieces else self.orthogonalize(x)
        for after, memory in zip(self.after, memories, strict=True):
            x = after(x, memory)
        self.decay.apply([params], [x], shrinkage)
        params.addcmul_(x, rate)
