"""Parameter group whose matrices are updated as stacks, sharded over ranks (Parallel Muon, Parameter Golf #399)."""

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
    """A group that updates all matrices of one shape as one stack. Each rank updates its shard of every stack.

    Gradients are reduce-scattered to their mean, and the new weights are all-gathered, so all ranks hold bit-identical
    weights. Both are asynchronous and overlap with the update of other stacks; the largest stack comes first.
    Call `reduce_gradients` before each `step` and `wait` after it. After `mark_last_backward`, the next backward pass
    reduces a stack as soon as all of its gradients are complete.
    State names and shapes equal those of a `ParameterGroup`, so a checkpoint can be loaded with any number of ranks.
    `named_state` is collective: all ranks must call it.
    """

    def init_state(self) -> None:
        by_shape: dict[torch.Size, dict[str, nn.Parameter]] = {}
        for path, p in self.params.items():
            by_shape.setdefault(p.shape[-2:], {})[path] = p
        largest_first = sorted(by_shape.values(), key=lambda params: -sum(p.numel() for p in params.values()))
        self.stacks = [MatrixStack(params, self.distributed, self._reduce_dtype) for params in largest_first]
        self.states: list[OptimizerState] = [self.algorithm.init_state([stack.local_shard]) for stack in self.stacks]
        self.missing_gradients: list[int] = []  # per stack, during the last backward pass; otherwise empty
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
        """One line for the log: how many matrices each rank updates, and how gradients are reduced."""
        shards = " + ".join(f"{stack.matrices_per_rank} of {sum(stack.counts)}" for stack in self.stacks)
        reduction = "all-reduce of whole stacks, by gloo" if self.distributed.backend == "gloo" else "reduce-scatter"
        world_size = self.distributed.world_size
        return f"{self.name}: each of {world_size} ranks updates {shards} matrices (gradients: {reduction})"

    def mark_last_backward(self) -> None:
        """Declare the next backward pass the last before the step, so that it reduces each stack that is complete.

        All ranks run the same graph, so stacks are completed, and therefore reduced, in the same order on all ranks.
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
        """Start the reduce-scatter of all stacks that the backward pass has not reduced.

        Raises `BitgolfError` if a parameter has no gradient.
        """
        self.check_gradients()
        self.missing_gradients = []
        for i in range(len(self.stacks)):
            if i not in self.pending_reduces:
                self._reduce(i)

    def gradients(self) -> list[Tensor]:
        """This rank's shard of the mean gradients, one tensor (k, m, n) per stack."""
        assert self.pending_reduces, "reduce_gradients must be called before gradients"
        return [self.pending_reduces[i].wait() for i in range(len(self.stacks))]

    @torch.no_grad()
    def step(self, progress: TrainingProgress, lr_scale: float) -> None:
        assert self.pending_reduces, "reduce_gradients must be called before step"
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
                out = own if self.distributed.world_size == 1 else own.new_empty(len(stack.weights), *own.shape[1:])
                tensors = stack.unstack(all_gather(own, self.distributed, out).wait())
                yield from ((f"{path}/{key}", t) for path, t in zip(stack.paths, tensors, strict=True))

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for stack, stack_state in zip(self.stacks, self.states, strict=True):
            for key, (own,) in stack_state.items():
                own.copy_(stack.shard_of([state[f"{path}/{key}"] for path in stack.paths]))
