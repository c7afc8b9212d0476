"""Muon: momentum, orthogonalized (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from bitgolf.clock import Now
from bitgolf.optim.algorithm import Algorithm, State
from bitgolf.optim.decay import WeightDecay
from bitgolf.optim.orthogonalize import NewtonSchulz, Orthogonalizer
from bitgolf.optim.schedules import Ramp, Schedule
from bitgolf.optim.shape import After, Before, Pieces
from bitgolf.spec import Spec, part, register
from bitgolf.world import World


@register
class Muon(Algorithm):
    """M <- mu M + G; W <- (1 - lr wd) W - lr sqrt(max(1, m/n)) orth(G + mu M) for each matrix W of m rows, n columns.

    Without `nesterov` it is orth(M). The factor gives updates of tall matrices the same size per output. Since `orth`
    forgets scale, neither (1 - mu) nor a bias correction is needed. Weight decay shrinks with the scheduled rate;
    `decay` multiplies it, and `cautious` confines it (see `WeightDecay`).

    `before` and `after` change the update around `orth`, which acts on the `pieces` of a matrix where it has any.
    Matrices of one shape are orthogonalized as one stack; leading axes of a parameter are a stack already.
    `shard`: each of several processes steps a share of every stack (`auto`), or a lone process too (`on`), or each
    steps all of them (`off`).
    """

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
    ) -> None:
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
        return {"momentum": [torch.zeros_like(p) for p in params], **memories}

    @torch.no_grad()
    def step(self, params: list[Tensor], grads: list[Tensor], state: State, now: Now, lr_scale: float) -> None:
        lr, moves = self.lr * lr_scale, self._directions(grads, state["momentum"], self.momentum.value(now))
        for (*_, m, n), members in _by_shape(params).items():
            memories = [[state[f"after.{k}"][i] for i in members] for k in range(len(self.after))]
            updates = self._updates(torch.stack([moves[i] for i in members]), memories).unbind()
            some = [params[i] for i in members]
            self.decay.apply(some, updates, now, lr, lr_scale)
            torch._foreach_add_(some, updates, alpha=-lr * math.sqrt(max(1.0, m / n)))

    def _directions(self, grads: list[Tensor], buffers: list[Tensor], mu: float) -> list[Tensor]:
        """Bring the momentum up to date and say where each matrix should go, before orthogonalization."""
        torch._foreach_mul_(buffers, mu)
        torch._foreach_add_(buffers, grads)
        return list(torch._foreach_add(grads, buffers, alpha=mu)) if self.nesterov else buffers

    def _updates(self, x: Tensor, memories: list[list[Tensor]]) -> Tensor:
        """A stack of directions to a stack of updates; `memories` of the `after` parts change in place."""
        for before in self.before:
            x = before(x)
        x = self.pieces.join(self.orthogonalize(self.pieces.cut(x))) if self.pieces else self.orthogonalize(x)
        for after, memory in zip(self.after, memories, strict=True):
            stack = torch.stack(memory)
            x = after(x, stack)
            torch._foreach_copy_(memory, stack.unbind())
        return x


def _by_shape(params: list[Tensor]) -> dict[torch.Size, list[int]]:
    members: dict[torch.Size, list[int]] = {}
    for i, p in enumerate(params):
        members.setdefault(p.shape, []).append(i)
    return members
