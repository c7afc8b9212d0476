"""Schedules of learning rate factors, weight decay and momentum, as functions of `TrainingProgress`.

All but `Rewarmup` are pure functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from torch import Tensor

from bitgolf.config.ranges import (
    Count,
    Fraction,
    FractionBelowOne,
    InnerFraction,
    NonNegative,
    Positive,
    PositiveFraction,
)
from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import TrainingProgress


class Schedule(ABC):
    """A scalar that depends on the progress of training."""

    @abstractmethod
    def value(self, progress: TrainingProgress) -> float:
        """The value for the next step. `progress.step` is the number of completed steps, 0 before the first step."""

    def state(self) -> dict[str, Tensor]:
        """What the value depends on besides the progress, as tensors that a checkpoint saves and restores in place."""
        return {}


@register
class Constant(Schedule):
    """The same value at every step."""

    def __init__(self, *, value: NonNegative = 1.0) -> None:
        self.constant = value

    def value(self, progress: TrainingProgress) -> float:
        return self.constant


@register
class LinearRamp(Schedule):
    """Linear from `start` to `end` over the first `steps` steps, then `end`. Used for the warm-up of momentum."""

    def __init__(self, *, start: NonNegative, end: NonNegative, steps: Count) -> None:
        self.start, self.end, self.steps = start, end, _positive(steps, "LinearRamp.steps")

    def value(self, progress: TrainingProgress) -> float:
        return _interpolate(self.start, self.end, progress.step / self.steps)


@register
class WarmdownSteps(Schedule):
    """1, then linear to 0 over the last `steps` steps (baseline of the challenge).

    Under a time limit the remaining steps are estimated from the mean time of the completed steps. The value then
    depends on the speed of the machine, and slow first steps lower it temporarily. If `steps` exceeds the length of the
    run, the value decreases from the start.
    """

    def __init__(self, *, steps: Count) -> None:
        self.steps = _positive(steps, "WarmdownSteps.steps")

    def value(self, progress: TrainingProgress) -> float:
        return min(1.0, progress.steps_left / self.steps)


@register
class WarmdownFraction(Schedule):
    """1, then linear to 0 over the last `fraction` of the run, but at least `floor` (Parameter Golf #1218, #1787)."""

    def __init__(self, *, fraction: PositiveFraction, floor: FractionBelowOne = 0.0) -> None:
        if not 0 < fraction <= 1:
            raise RecipeError(f"fraction must be in (0, 1], got {fraction}", where="WarmdownFraction.fraction")
        if not 0 <= floor < 1:
            raise RecipeError(f"floor must be in [0, 1), got {floor}", where="WarmdownFraction.floor")
        self.fraction, self.floor = fraction, floor

    def value(self, progress: TrainingProgress) -> float:
        return min(1.0, max((1.0 - progress.fraction) / self.fraction, self.floor))


@register
class Warmup(Schedule):
    """The schedule `then`, times a factor that grows linearly from 1/steps at the first step to 1 at step `steps`."""

    def __init__(self, *, steps: Count, then: Spec[Schedule]) -> None:
        self.steps, self.then = _positive(steps, "Warmup.steps"), then()

    def value(self, progress: TrainingProgress) -> float:
        return min(1.0, (progress.step + 1) / self.steps) * self.then.value(progress)

    def state(self) -> dict[str, Tensor]:
        return self.then.state()


@register
class Rewarmup(Schedule):
    """The schedule `then`, times a factor that grows from 1/steps to 1 each time the run passes a fraction of `after`.

    The factor is 1/steps at the first step beyond the fraction, and 1 from the step number `steps` on. Parameter Golf
    #2014 has it after each change of the segment length, with 32 steps. Under a time limit the step at which the run
    passes a fraction is not known in advance, so it is part of the state.
    """

    def __init__(self, *, after: tuple[InnerFraction, ...], steps: Count, then: Spec[Schedule]) -> None:
        if not after or any(a >= b for a, b in pairwise(after)):
            cause = f"after must be one or more ascending fractions of the run, got {after}"
            raise RecipeError(cause, where="Rewarmup.after", hint="e.g. (0.1, 0.7)")
        self.after, self.steps, self.then = after, _positive(steps, "Rewarmup.steps"), then()
        self.passed = torch.zeros((), dtype=torch.int64)  # fractions at the last step
        self.passed_at = torch.full((), -self.steps, dtype=torch.int64)  # the step at which the last of them was passed

    def state(self) -> dict[str, Tensor]:
        return {"passed": self.passed, "passed_at": self.passed_at, **self.then.state()}

    def value(self, progress: TrainingProgress) -> float:
        passed = sum(progress.fraction > fraction for fraction in self.after)
        if passed > self.passed:
            self.passed_at.fill_(progress.step)
        self.passed.fill_(passed)
        done = progress.step - int(self.passed_at) + 1
        factor = min(1.0, done / self.steps) if self.passed else 1.0
        return factor * self.then.value(progress)


@register
class PiecewiseLinear(Schedule):
    """Linear between points (fraction of the run, value), constant before the first point and after the last.

    Published as factors of weight decay: `((0.7, 1.0), (1.0, 0.5))` in Parameter Golf #1729, and `((0.4, 1.0), (0.85,
    0.65), (1.0, 1.5))` in the branch of #1512 (gain on #1493: 0.001), whose stronger variant has the values 0.5 and
    1.75. If the learning rate falls to 0, an increase near the end has nearly no effect.
    """

    def __init__(self, *, points: tuple[tuple[Fraction, NonNegative], ...]) -> None:
        fractions = [fraction for fraction, _ in points]
        if len(points) < 2 or any(not 0 <= a < b <= 1 for a, b in pairwise(fractions)):
            cause = f"expected at least two points with ascending fractions in [0, 1], got fractions {fractions}"
            raise RecipeError(cause, where="PiecewiseLinear.points")
        self.points = points

    def value(self, progress: TrainingProgress) -> float:
        segments = pairwise(self.points)
        (a, start), (b, end) = next((s for s in segments if progress.fraction < s[1][0]), self.points[-2:])
        return _interpolate(start, end, (progress.fraction - a) / (b - a))


@register
class InverseLRRamp(Schedule):
    """Weight decay from `low` to `high` as the learning rate factor s goes from 1 to 0 (Parameter Golf #309, #675).

    The value is the weight decay itself, so `weight_decay` must be 1.0. The update is
    W <- (1 - lr s (low + (high - low) (1 - s))) W, with s read from `TrainingProgress.lr_scale`. The effective decay, s
    times the value, rises only to 0.0267 at s = 2/3 (with the defaults) and then falls to 0.
    """

    def __init__(self, *, low: Positive = 0.02, high: Positive = 0.08) -> None:
        self.low, self.high = low, high

    def value(self, progress: TrainingProgress) -> float:
        return self.low + (self.high - self.low) * max(0.0, 1.0 - progress.lr_scale)


def _interpolate(start: float, end: float, fraction: float) -> float:
    """Linear interpolation from `start` to `end`, with `fraction` clamped to [0, 1]."""
    fraction = min(1.0, max(0.0, fraction))
    return (1 - fraction) * start + fraction * end


def _positive(steps: int, where: str) -> int:
    if steps < 1:
        raise RecipeError(f"steps must be at least 1, got {steps}", where=where)
    return steps
