"""Sharding an optimizer over processes: each steps its share of the matrices (Parallel Muon, Parameter Golf #399)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bitgolf.clock import Now
from bitgolf.optim.algorithm import State
from bitgolf.optim.group import Group
from bitgolf.world import Pending, World, gather, scatter_mean


class Stack:
    """All matrices (m, n) of some parameters as one tensor (W k, m, n), of which each of W processes owns k.

    Leading axes of a parameter are matrices too. Blank matrices of zeros make their number a multiple of W; they come
    last, and an algorithm that forgets nothing but scale keeps them zero. The same stacking serves all that has the
    parameters' leading axes: gradients, momentum, memories of rows.
    """

    def __init__(self, params: Mapping[str, nn.Parameter], world: World) -> None:
        self.paths = list(params)
        self.params: list[Tensor] = list(params.values())
        self.rank, self.size = world.rank, world.size
        self.counts = [p.shape[:-2].numel() for p in self.params]
        self.share = -(-sum(self.counts) // world.size)

    def whole(self, tensors: Sequence[Tensor]) -> Tensor:
        """One tensor for each parameter, stacked: a copy."""
        return self._stacked(tensors, 0, self.share * self.size)

    def own(self, tensors: Sequence[Tensor]) -> Tensor:
        """This process's share of the same stack."""
        return self._stacked(tensors, self.rank * self.share, (self.rank + 1) * self.share)

    def parts(self, stack: Tensor) -> list[Tensor]:
        """The inverse of `whole`: views in the parameters' leading shapes, the padding left out."""
        entry = stack.shape[1:]
        pieces = stack[: sum(self.counts)].split(self.counts)
        return [piece.view(*p.shape[:-2], *entry) for piece, p in zip(pieces, self.params, strict=True)]

    def _stacked(self, tensors: Sequence[Tensor], first: int, last: int) -> Tensor:
        lead = [p.ndim - 2 for p in self.params]
        flat = [t.reshape(-1, *t.shape[n:]) for t, n in zip(tensors, lead, strict=True)]
        entries = [entry for stack in flat for entry in stack]
        blank = torch.zeros_like(entries[0])
        chosen = entries[first:last]
        return torch.stack(chosen + [blank] * (last - first - len(chosen)))


class ShardedGroup(Group):
    """A group whose state is spread over the processes: each steps its share of every stack, and all get the result.

    Gradients are reduced to shares of their mean; the new weights are gathered, which keeps all copies the same bit for
    bit. Both go on while the next stack is computed, the largest first. `reduce` comes before each `step`. The names
    and forms of the state are those of an ordinary group, so a checkpoint serves any number of processes; to read
    or to load it, all processes must take part.
    """

    def prepare(self) -> None:
        by_shape: dict[torch.Size, dict[str, nn.Parameter]] = {}
        for path, p in self.params.items():
            by_shape.setdefault(p.shape[-2:], {})[path] = p
        largest_first = sorted(by_shape.values(), key=lambda params: -sum(p.numel() for p in params.values()))
        self.stacks = [Stack(params, self.world) for params in largest_first]
        self.pending: list[Pending] = []
        self.states: list[State] = [self.algorithm.start([stack.own(stack.params)]) for stack in self.stacks]

    @property
    def why(self) -> str:
        """What is shared, for people."""
        shares = " + ".join(f"{stack.share} of {sum(stack.counts)}" for stack in self.stacks)
        way = "whole stacks are reduced, as gloo does it" if self.world.backend == "gloo" else "shares are reduced"
        return f"{self.name}: each of {self.world.size} processes steps {shares} matrices ({way})"

    @torch.no_grad()
    def reduce(self) -> None:
        """Send the gradients on their way: of their mean over all processes, each gets its own share."""
        self.need_gradients()
        wholes = [stack.whole([p.grad for p in stack.params if p.grad is not None]) for stack in self.stacks]
        self.pending = [scatter_mean(whole, self.world) for whole in wholes]

    def gradients(self) -> list[Tensor]:
        """The shares of this process, stack by stack."""
        assert self.pending, "reduce comes before step"
        return [share.wait() for share in self.pending]

    @torch.no_grad()
    def step(self, now: Now, lr_scale: float) -> None:
        assert self.pending, "reduce comes before step"
        arriving: list[Pending] = []
        for stack, grad, state in zip(self.stacks, self.pending, self.states, strict=True):
            own = stack.own(stack.params)
            self.algorithm.step([own], [grad.wait()], state, now, lr_scale)
            arriving.append(gather(own, self.world))
        for stack, weights in zip(self.stacks, arriving, strict=True):
            torch._foreach_copy_(stack.params, stack.parts(weights.wait()))

    def zero_grad(self) -> None:
        super().zero_grad()
        self.pending = []

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        for stack, state in zip(self.stacks, self.states, strict=True):
            for key, (own,) in state.items():
                whole = stack.parts(gather(own, self.world).wait())
                yield from ((f"{path}/{key}", t) for path, t in zip(stack.paths, whole, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        for stack, mine in zip(self.stacks, self.states, strict=True):
            for key, (own,) in mine.items():
                own.copy_(stack.own([state[f"{path}/{key}"] for path in stack.paths]))
