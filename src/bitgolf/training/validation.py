"""When held-out text is scored during training, and how much of it."""

from __future__ import annotations

from typing import Literal

from bitgolf.config.ranges import CountOrZero, InnerFraction, Seconds
from bitgolf.config.registry import register
from bitgolf.runtime.progress import TrainingProgress


@register
class Validation:
    """When held-out text is scored during training, and how much of it.

    It is scored after every `every_steps` steps, after every `every_seconds` seconds of the training clock, at the
    fractions `at` of the run, and after the last step; 0 and () leave a schedule out. tokens: the first held-out targets
    that are scored; 0 for all. weights: those after the last step, or their average (the former until the average has a
    snapshot). on_clock: whether the time counts as training time, without that of the score after the last step.
    """

    def __init__(
        self,
        *,
        tokens: CountOrZero,
        every_steps: CountOrZero = 0,
        every_seconds: Seconds = 0.0,
        at: tuple[InnerFraction, ...] = (),
        weights: Literal["trained", "averaged"] = "trained",
        on_clock: bool = False,
    ) -> None:
        self.tokens, self.every_steps, self.every_seconds, self.at = tokens, every_steps, every_seconds, at
        self.weights, self.on_clock = weights, on_clock

    def due(self, before: TrainingProgress, now: TrainingProgress) -> bool:
        """Whether a time to score lies after `before`, and not after `now`."""
        steps, seconds = self.every_steps, self.every_seconds
        return (
            bool(steps and now.step // steps > before.step // steps)
            or bool(seconds and now.elapsed_seconds // seconds > before.elapsed_seconds // seconds)
            or any(before.fraction < moment <= now.fraction for moment in self.at)
        )
