"""Interface of weight averages. An average holds settings only; its state is a dictionary of plain tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from bitgolf.config.registry import part_name
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.runtime.progress import TrainingProgress

AverageState = dict[str, list[Tensor]]


class Average(ABC):
    """A mean of the weights over the steps of a run, computed in float32. Integer tensors are not averaged.

    `state["count"]` holds the number of snapshots taken. A key such as `mean` holds one tensor per averaged parameter.
    """

    @abstractmethod
    def init_state(self, params: list[Tensor]) -> AverageState:
        """Return the state before the first step."""

    @abstractmethod
    def update(self, state: AverageState, params: list[Tensor], progress: TrainingProgress, lr_scale: float) -> None:
        """Take a snapshot if one is due. Called after each step.

        progress.step: number of completed steps, this one included.  lr_scale: learning rate factor of this step.
        """

    @abstractmethod
    def result(self, state: AverageState, params: list[Tensor]) -> list[Tensor]:
        """Return the averaged weights as new tensors with the dtypes of `params`.

        Raises `BitgolfError` if no snapshot was taken.
        """

    def snapshot_count(self, state: AverageState) -> int:
        """Number of snapshots in the state. Raises `BitgolfError` if there is none."""
        if not (count := int(state["count"][0])):
            raise BitgolfError(
                "the average never took a snapshot during training",
                where=part_name(type(self)),
                hint="take snapshots earlier or more often, train longer, or remove the average",
            )
        return count


def float_tensors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The floating-point tensors among `tensors`, which are the averaged ones, converted to float32."""
    return [t.detach().float() for t in tensors if t.is_floating_point()]


def restore_dtypes(means: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    """One new tensor per parameter: its mean in its own dtype, or a copy of the parameter if its dtype is integer."""
    remaining = iter(means)
    return [next(remaining).to(p.dtype, copy=True) if p.is_floating_point() else p.detach().clone() for p in params]


def new_counter() -> list[Tensor]:
    """A state entry with one int64 scalar, 0."""
    return [torch.zeros((), dtype=torch.int64)]


def check_interval(every: int, where: str) -> int:
    """Return `every`, the number of steps between snapshots. Raises `RecipeError` if it is below 1."""
    if every < 1:
        raise RecipeError(f"every must be at least 1 step, got {every}", where=where)
    return every
