"""A group that is stepped stack by stack, and over processes in shares (Parallel Muon, Parameter Golf #399)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from bitgolf.optim.algorithm import State
from bitgolf.optim.matrix_stack import Stack
from bitgolf.optim.parameter_group import Group
from bitgolf.runtime.distributed import Pending, gather, scatter_mean
from bitgolf.runtime.progress import Now


class StackedGroup(Group):
    """A group whose algorithm steps all matrices of one shape as one stack; of several processes each steps its share.

    Gradients are reduced to shares of their mean; the new weights are gathered, which keeps all copies the same bit for
    bit. Both are asynchronous and go on while other stacks are computed, the largest first. `reduce` comes before each
    `step`, and `finish` after it. After `expect`, a stack is already reduced during the backward pass, as soon as it has
    all gradients. The names and forms of the state are those of an ordinary group, so a checkpoint serves any number of
    processes; to read or to load it, all processes must take part.
    """

    def prepare(self) -> None:
        by_shape: dict[torch.Size, dict[str, nn.Parameter]] = {}
        for path, p in self.params.items():
            by_shape.setdefault(p.shape[-2:], {})[path] = p
        largest_first = sorted(by_shape.values(), key=lambda params: -sum(p.numel() for p in params.values()))
        self.stacks = [Stack(params, self.world, self._reduce_dtype) for params in largest_first]
        self.states: list[State] = [self.algorithm.start([stack.own]) for stack in self.stacks]
        self.missing: list[int] = []  # gradients that each stack still waits for, once the last backward has begun
        self.reducing: dict[int, Pending] = {}
        self.gathering: list[Pending] = []
        self._hooks = [
            p.register_post_accumulate_grad_hook(lambda _, i=i: self._arrived(i))
            for i, params in enumerate(largest_first if self.world.size > 1 else ())
            for p in params.values()
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def _reduce_dtype(self) -> torch.dtype:
        return self.algorithm.reduce_dtype if self.world.size > 1 else torch.float32

    @property
    def why(self) -> str:
        """What is shared, for people."""
        shares = " + ".join(f"{stack.share} of {sum(stack.counts)}" for stack in self.stacks)
        way = "whole stacks are reduced, as gloo does it" if self.world.backend == "gloo" else "shares are reduced"
        return f"{self.name}: each of {self.world.size} processes steps {shares} matrices ({way})"

    def expect(self) -> None:
        """The next backward pass is the last one before the step: what it completes may be reduced at once.

        All processes run the same graph, so stacks are completed, and reduced, in the same order everywhere.
        """
        self.missing = [len(stack.params) for stack in self.stacks]

    def _arrived(self, i: int) -> None:
        if self.missing:
            self.missing[i] -= 1
            if not self.missing[i]:
                self._reduce(i)

    @torch.no_grad()
    def _reduce(self, i: int) -> None:
        grads = [grad for path in self.stacks[i].paths if (grad := self.params[path].grad) is not None]
        self.reducing[i] = scatter_mean(self.stacks[i].fill(grads), self.world)

    def reduce(self) -> None:
        """Send the other gradients on their way: of their mean over all processes, each gets its own share."""
        self.need_gradients()
        self.missing = []
        for i in range(len(self.stacks)):
            if i not in self.reducing:
                self._reduce(i)

    def gradients(self) -> list[Tensor]:
        """The shares of this process, stack by stack."""
        assert self.reducing, "reduce comes before step"
        return [self.reducing[i].wait() for i in range(len(self.stacks))]

    @torch.no_grad()
    def step(self, now: Now, lr_scale: float) -> None:
        assert self.reducing, "reduce comes before step"
        for i, (stack, state) in enumerate(zip(self.stacks, self.states, strict=True)):
            self.update_fn([stack.load()], [self.reducing[i].wait()], state, now, lr_scale)
            self.gathering.append(gather(stack.own, self.world, stack.weights))

    @torch.no_grad()
    def finish(self) -> None:
        for stack, weights in zip(self.stacks, self.gathering, strict=True):
            weights.wait()
            stack.store()
        self.gathering, self.reducing = [], {}

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        for stack, state in zip(self.stacks, self.states, strict=True):
            for key, (own,) in state.items():
                whole = own if self.world.size == 1 else own.new_empty(len(stack.weights), *own.shape[1:])
                parts = stack.parts(gather(own, self.world, whole).wait())
                yield from ((f"{path}/{key}", t) for path, t in zip(stack.paths, parts, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        for stack, mine in zip(self.stacks, self.states, strict=True):
            for key, (own,) in mine.items():
                own.copy_(stack.own_of([state[f"{path}/{key}"] for path in stack.paths]))
