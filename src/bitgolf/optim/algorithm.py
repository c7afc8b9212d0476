"""What every update algorithm offers: a pure configuration that steps lists of tensors in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from bitgolf.clock import Now

State = dict[str, list[Tensor]]


class Algorithm(ABC):
    """How a list of parameters follows its gradients. It holds settings only; what changes is in the `State`.

    A state is plain tensors, under each key one for every parameter, so that a checkpoint can name them.
    """

    least_dims: ClassVar[int] = 0  # the fewest axes that a parameter may have

    @abstractmethod
    def start(self, params: list[Tensor]) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, params: list[Tensor], grads: list[Tensor], state: State, now: Now, lr_scale: float) -> None:
        """Change `params` and `state` in place; the learning rate is the algorithm's own times `lr_scale`."""
