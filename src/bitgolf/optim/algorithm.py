"""What every update algorithm offers: a pure configuration that steps lists of tensors in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bitgolf.runtime.distributed import DistributedContext
from bitgolf.runtime.progress import TrainingProgress

OptimizerState = dict[str, list[Tensor]]
CompileFunction = Callable[[Callable[..., Any]], Callable[..., Any]]  # a function -> the same one as a compiled graph
UpdateFunction = Callable[[list[Tensor], list[Tensor], OptimizerState, TrainingProgress, float], None]
"""(parameters, gradients, state, now, factor of the learning rate): changes parameters and state in place."""


class UpdateAlgorithm(ABC):
    """How a list of parameters follows its gradients. It holds settings only; what changes is in the `OptimizerState`.

    A state is plain tensors, under each key one for every parameter, so that a checkpoint can name them.
    """

    needs_gradients: ClassVar[bool] = True
    stacked: ClassVar[bool] = False
    """Whether it steps every matrix (m, n) by itself, and all its state has the leading axes of a parameter: it is then
    given all matrices of one shape as one tensor (k, m, n)."""
    reduce_dtype: torch.dtype = torch.float32
    """The type in which gradients of sharded stacks are reduced."""

    def unsupported_reason(self, shape: torch.Size) -> str:
        """Why it cannot step a parameter of this shape; "" where it can."""
        return ""

    def is_sharded(self, distributed: DistributedContext) -> bool:
        """Whether each process is to step a share of every stack only."""
        return False

    def compile(self, compile_fn: CompileFunction) -> UpdateFunction:
        """`step` with its inner computation as a compiled graph; `step` itself where that does not pay.

        A number that follows a schedule must not be a constant of the graph, or each step would compile another one.
        """
        return self.step

    @abstractmethod
    def init_state(self, params: list[Tensor]) -> OptimizerState:
        """The state before the first step."""

    @abstractmethod
    def step(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        state: OptimizerState,
        progress: TrainingProgress,
        lr_scale: float,
    ) -> None:
        """Change `params` and `state` in place; the learning rate is the algorithm's own times `lr_scale`."""
