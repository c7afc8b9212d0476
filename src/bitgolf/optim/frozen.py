"""Parameters that are not trained."""

from __future__ import annotations

from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.optim.algorithm import OptimizerState, UpdateAlgorithm
from bitgolf.runtime.progress import TrainingProgress


@register
class Frozen(UpdateAlgorithm):
    """Keeps parameters at their initial values. Gradients are not required and are excluded from the global norm.

    Needed to reproduce Parameter Golf #1090, which assigned its smear gate to no optimizer and shipped the initial
    value.
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
