"""What every weight average offers: a pure configuration, with its snapshots in a state of plain tensors."""

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
    """A mean of the weights along a run, in float32 whatever their type; tensors of integers pass through untouched.

    `state["snapshot_count"]` is how many snapshots were taken; `state["mean"]` or the like holds one tensor per parameter.
    """

    @abstractmethod
    def init_state(self, params: list[Tensor]) -> AverageState:
        """The state before the first step."""

    @abstractmethod
    def update(self, state: AverageState, params: list[Tensor], progress: TrainingProgress, lr_scale: float) -> None:
        """After each step, `progress.step` counting it and `lr_scale` as it was used: take a snapshot if one is due."""

    @abstractmethod
    def result(self, state: AverageState, params: list[Tensor]) -> list[Tensor]:
        """New tensors, of the parameters' types. An average that took no snapshot did nothing: a `BitgolfError`."""

    def snapshot_count(self, state: AverageState) -> int:
        """The number of snapshots in the state, which a result needs to be at least one."""
        if not (count := int(state["count"][0])):
            raise BitgolfError(
                "the average never took a snapshot, so it would do nothing",
                where=part_name(type(self)),
                hint="take snapshots sooner or more often, train longer, or remove it",
            )
        return count


def float_tensors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that are averaged, in float32."""
    return [t.detach().float() for t in tensors if t.is_floating_point()]


def restore_dtypes(means: list[Tensor], params: list[Tensor]) -> list[Tensor]:
    """The means in the parameters' types, with tensors of integers taken from the parameters."""
    rest = iter(means)
    return [next(rest).to(p.dtype, copy=True) if p.is_floating_point() else p.detach().clone() for p in params]


def new_counter() -> list[Tensor]:
    return [torch.zeros((), dtype=torch.int64)]


def check_interval(every: int, where: str) -> int:
    if every < 1:
        raise RecipeError(f"expected at least 1 step, got {every}", where=where)
    return every
