"""Parameters that never move."""

from __future__ import annotations

from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.optim.algorithm import OptimizerState, UpdateAlgorithm
from bitgolf.runtime.progress import TrainingProgress


@register
class Frozen(UpdateAlgorithm):
    """Leaves its parameters as they were made; they need no gradient, and one that they have counts for no norm.

    Parameter Golf #1090 forgot its smear gate in every optimizer, and shipped it at its initial value: to do it on
    purpose takes a rule.
    """

    needs_gradients = False

    def init_state(self, params: list[Tensor]) -> OptimizerState:
        return {}

    def step(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        state: OptimizerState,
        progress: TrainingProgress,
        lr_scale: float,
    ) -> None:
        pass
