"""What every update algorithm offers: a pure configuration that steps lists of tensors in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from bitgolf.runtime.distributed import World
from bitgolf.runtime.progress import Now

State = dict[str, list[Tensor]]
Compiling = Callable[[Callable[..., Any]], Callable[..., Any]]  # a function -> the same one as a compiled graph
UpdateFunction = Callable[[list[Tensor], list[Tensor], State, Now, float], None]
"""(parameters, gradients, state, now, factor of the learning rate): changes parameters and state in place."""


class Algorithm(ABC):
    """How a list of parameters follows its gradients. It holds settings only; what changes is in the `State`.

    A state is plain tensors, under each key one for every parameter, so that a checkpoint can name them.
    """

    needs_gradients: ClassVar[bool] = True
    stacked: ClassVar[bool] = False
    """Whether it steps every matrix (m, n) by itself, and all its state has the leading axes of a parameter: it is then
    given all matrices of one shape as one tensor (k, m, n)."""
    reduce_dtype: torch.dtype = torch.float32
    """The type in which gradients of sharded stacks are reduced."""

    def unfit(self, shape: torch.Size) -> str:
        """Why it cannot step a parameter of this shape; "" where it can."""
        return ""

    def shards(self, world: World) -> bool:
        """Whether each process is to step a share of every stack only."""
        return False

    def compile(self, compiling: Compiling) -> UpdateFunction:
        """`step` with its inner computation as a compiled graph; `step` itself where that does not pay.

        A number that follows a schedule must not be a constant of the graph, or each step would compile another one.
        """
        return self.step

    @abstractmethod
    def start(self, params: list[Tensor]) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, params: list[Tensor], grads: list[Tensor], state: State, now: Now, lr_scale: float) -> None:
        """Change `params` and `state` in place; the learning rate is the algorithm's own times `lr_scale`."""
