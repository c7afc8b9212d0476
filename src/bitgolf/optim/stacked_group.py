"""A group that is stepped stack by stack, and over processes in shares (Parallel Muon, Parameter Golf #399)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from bitgolf.optim.algorithm import OptimizerState
from bitgolf.optim.matrix_stack import MatrixStack
from bitgolf.optim.parameter_group import ParameterGroup
from bitgolf.runtime.distributed import AsyncTensor, all_gather, reduce_scatter_mean
from bitgolf.runtime.progress import TrainingProgress


class StackedParameterGroup(ParameterGroup):
    """A group whose algorithm steps all matrices of one shape as one stack; of several processes each steps its share.

    Gradients are reduced to shares of their mean; the new weights are gathered, which keeps all copies the same bit for
    bit. Both are asynchronous and go on while other stacks are computed, the largest first. `reduce_gradients` comes before each
    `step`, and `wait` after it. After `mark_last_backward`, a stack is already reduced during the backward pass, as soon as it has
    all gradients. The names and forms of the state are those of an ordinary group, so a checkpoint serves any number of
    processes; to read or to load it, all processes must take part.
    """

    def init_state(self) -> None:
        by_shape: dict[torch.Size, dict[str, nn.Parameter]] = {}
        for path, p in self.params.items():
            by_shape.setdefault(p.shape[-2:], {})[path] = p
        largest_first = sorted(by_shape.values(), key=lambda params: -sum(p.numel() for p in params.values()))
        self.stacks = [MatrixStack(params, self.distributed, self._reduce_dtype) for params in largest_first]
        self.states: list[OptimizerState] = [self.algorithm.init_state([stack.local_shard]) for stack in self.stacks]
        self.missing_gradients: list[
            int
        ] = []  # gradients that each stack still waits for, once the last backward has begun
        self.pending_reduces: dict[int, AsyncTensor] = {}
        self.pending_gathers: list[AsyncTensor] = []
        self._hooks = [
            p.register_post_accumulate_grad_hook(lambda _, i=i: self._gradient_ready(i))
            for i, params in enumerate(largest_first if self.distributed.world_size > 1 else ())
            for p in params.values()
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def _reduce_dtype(self) -> torch.dtype:
        return self.algorithm.reduce_dtype if self.distributed.world_size > 1 else torch.float32

    @property
    def sharding_summary(self) -> str:
        """What is shared, for people."""
        shares = " + ".join(f"{stack.matrices_per_rank} of {sum(stack.counts)}" for stack in self.stacks)
        way = (
            "whole stacks are reduced, as gloo does it" if self.distributed.backend == "gloo" else "shares are reduced"
        )
        return f"{self.name}: each of {self.distributed.world_size} processes steps {shares} matrices ({way})"

    def mark_last_backward(self) -> None:
        """The next backward pass is the last one before the step: what it completes may be reduced at once.

        All processes run the same graph, so stacks are completed, and reduced, in the same order everywhere.
        """
        self.missing_gradients = [len(stack.params) for stack in self.stacks]

    def _gradient_ready(self, i: int) -> None:
        if self.missing_gradients:
            self.missing_gradients[i] -= 1
            if not self.missing_gradients[i]:
                self._reduce(i)

    @torch.no_grad()
    def _reduce(self, i: int) -> None:
        grads = [grad for path in self.stacks[i].paths if (grad := self.params[path].grad) is not None]
        self.pending_reduces[i] = reduce_scatter_mean(self.stacks[i].stack_gradients(grads), self.distributed)

    def reduce_gradients(self) -> None:
        """Send the other gradients on their way: of their mean over all processes, each gets its own share."""
        self.check_gradients()
        self.missing_gradients = []
        for i in range(len(self.stacks)):
            if i not in self.pending_reduces:
                self._reduce(i)

    def gradients(self) -> list[Tensor]:
        """The shares of this process, stack by stack."""
        assert self.pending_reduces, "reduce comes before step"
        return [self.pending_reduces[i].wait() for i in range(len(self.stacks))]

    @torch.no_grad()
    def step(self, progress: TrainingProgress, lr_scale: float) -> None:
        assert self.pending_reduces, "reduce comes before step"
        for i, (stack, state) in enumerate(zip(self.stacks, self.states, strict=True)):
            self.update_fn([stack.stack_weights()], [self.pending_reduces[i].wait()], state, progress, lr_scale)
            self.pending_gathers.append(all_gather(stack.local_shard, self.distributed, stack.weights))

    @torch.no_grad()
    def wait(self) -> None:
        for stack, weights in zip(self.stacks, self.pending_gathers, strict=True):
            weights.wait()
            stack.unstack_weights()
        self.pending_gathers, self.pending_reduces = [], {}

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        for stack, state in zip(self.stacks, self.states, strict=True):
            for key, (own,) in state.items():
                whole = own if self.distributed.world_size == 1 else own.new_empty(len(stack.weights), *own.shape[1:])
                parts = stack.unstack(all_gather(own, self.distributed, whole).wait())
                yield from ((f"{path}/{key}", t) for path, t in zip(stack.paths, parts, strict=True))

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for stack, mine in zip(self.stacks, self.states, strict=True):
            for key, (own,) in mine.items():
                own.copy_(stack.shard_of([state[f"{path}/{key}"] for path in stack.paths]))
