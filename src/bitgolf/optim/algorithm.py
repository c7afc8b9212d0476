"""Interface of update algorithms. An algorithm holds settings only and updates lists of tensors in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress

OptimizerState = dict[str, list[Tensor]]
CompileFunction = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Takes a function and returns it as a compiled graph."""
UpdateFunction = Callable[[list[Tensor], list[Tensor], OptimizerState, TrainingProgress, float], None]
"""(parameters, gradients, state, progress, learning rate factor): updates parameters and state in place."""


class UpdateAlgorithm(ABC):
    """Update rule for a list of parameters. An instance holds settings only; everything that changes is in the state.

    A state maps each key to one plain tensor per parameter, so that a checkpoint can store it by name.
    """

    needs_gradients: ClassVar[bool] = True
    stacked: ClassVar[bool] = False
    """Whether the algorithm updates each matrix (m, n) independently, with state that has the leading dimensions of the
    parameter. If so, it receives all matrices of one shape as one tensor (k, m, n)."""
    reduce_dtype: torch.dtype = torch.float32
    """The dtype in which gradients of sharded stacks are reduced over the ranks."""

    def unsupported_reason(self, shape: torch.Size) -> str:
        """The reason why a parameter of this shape cannot be updated, or "" if it can."""
        return ""

    def is_sharded(self, distributed: DistributedContext) -> bool:
        """Whether each rank updates only its shard of every stack."""
        return False

    def compile(self, compile_fn: CompileFunction) -> UpdateFunction:
        """Return `step` with its inner computation compiled, or `step` itself if compiling does not pay.

        Scheduled values must enter the graph as tensors. As constants they would cause a recompilation at each step.
        """
        return self.step

    @abstractmethod
    def init_state(self, params: list[Tensor]) -> OptimizerState:
        """Return the state before the first step."""

    @abstractmethod
    def step(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        state: OptimizerState,
        progress: TrainingProgress,
        lr_scale: float,
    ) -> None:
        """Update `params` and `state` in place. The learning rate is the algorithm's own, multiplied by `lr_scale`."""
