"""Learning rates of training steps, from the settings of a recipe and the times in a log."""

from __future__ import annotations

from collections.abc import Mapping

from bitgolf.runtime.progress import TrainingProgress
from bitgolf.training.settings import Train


class LearningRates:
    """Learning rates by step. largest: (update algorithm, where of its rule, rate) of the rules that have a rate."""

    def __init__(self, train: Train) -> None:
        self._steps, self._schedule = train.steps, train.lr_schedule()
        uses = [(rule["where"], rule["use"]) for rule in train.optim]
        self.largest = [(use.name, str(where), float(use["lr"])) for where, use in uses if "lr" in use.kwargs]

    def factor(self, step: int, before: float, limit: float) -> float:
        """The factor of all learning rates in a step.

        before: seconds on the training clock when the step started, since a schedule depends on the progress before it.
        limit: seconds of training, 0 for none.
        """
        return self._schedule.value(TrainingProgress(step - 1, self._steps, before, limit))

    def rates(self, step: int, before: float, limit: float) -> Mapping[str, float]:
        """Where of a rule -> learning rate of a step."""
        factor = self.factor(step, before, limit)
        return {where: factor * rate for _, where, rate in self.largest}
