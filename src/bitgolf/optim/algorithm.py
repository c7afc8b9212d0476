"""What every update algorithm offers: a pure configuration that steps lists of tensors in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from bitgolf.clock import Now
from bitgolf.world import World

State = dict[str, list[Tensor]]


class Algorithm(ABC):
    """How a list of parameters follows its gradients. It holds settings only; what changes is in the `State`.

    A state is plain tensors, under each key one for every parameter, so that a checkpoint can name them.
    """

    needs_gradients: ClassVar[bool] = True

    def unfit(self, shape: torch.Size) -> str:
        """Why it cannot step a parameter of this shape; "" where it can."""
        return ""

    def shards(self, world: World) -> bool:
        """Whether each process is to step a share of the matrices only (`ShardedGroup`).

        It may do so if it steps every matrix (m, n) by itself, and all its state has the leading axes of a parameter.
        """
        return False

    @abstractmethod
    def start(self, params: list[Tensor]) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, params: list[Tensor], grads: list[Tensor], state: State, now: Now, lr_scale: float) -> None:
        """Change `params` and `state` in place; the learning rate is the algorithm's own times `lr_scale`."""
