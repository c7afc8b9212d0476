"""Values that change along a run, as pure functions of `TrainingProgress`: factors of learning rate and weight decay, momentum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import TrainingProgress


class Schedule(ABC):
    """A number at each moment of training. `now.step` counts the steps already done: the first step sees 0."""

    @abstractmethod
    def value(self, progress: TrainingProgress) -> float: ...


@register
class Constant(Schedule):
    def __init__(self, *, value: float = 1.0) -> None:
        self.constant = value

    def value(self, progress: TrainingProgress) -> float:
        return self.constant


@register
class LinearRamp(Schedule):
    """From `start` to `end` in a straight line over the first `steps` steps, then `end`: the warm-up of momentum."""

    def __init__(self, *, start: float, end: float, steps: int) -> None:
        self.start, self.end, self.steps = start, end, _positive(steps, "LinearRamp.steps")

    def value(self, progress: TrainingProgress) -> float:
        return _between(self.start, self.end, progress.step / self.steps)


@register
class WarmdownSteps(Schedule):
    """1, then down to 0 in a straight line over the last `steps` steps (the challenge's baseline).

    On the clock the steps left are estimated from the mean time of those done, so the line bends with the machine's
    speed, and slow first steps lower it for a moment. A warm-down longer than the run decays from the start.
    """

    def __init__(self, *, steps: int) -> None:
        self.steps = _positive(steps, "WarmdownSteps.steps")

    def value(self, progress: TrainingProgress) -> float:
        return min(1.0, progress.steps_left / self.steps)


@register
class WarmdownFraction(Schedule):
    """1, then down to 0 over the last `fraction` of the run, but never under `floor` (pull requests 1218 and 1787)."""

    def __init__(self, *, fraction: float, floor: float = 0.0) -> None:
        if not 0 < fraction <= 1:
            raise RecipeError(f"a fraction is in (0, 1], got {fraction}", where="WarmdownFraction.fraction")
        if not 0 <= floor < 1:
            raise RecipeError(f"a floor is in [0, 1), got {floor}", where="WarmdownFraction.floor")
        self.fraction, self.floor = fraction, floor

    def value(self, progress: TrainingProgress) -> float:
        return min(1.0, max((1.0 - progress.fraction) / self.fraction, self.floor))


@register
class Warmup(Schedule):
    """`then`, times a factor that grows in a straight line from 1/steps at the first step to 1 at step `steps`."""

    def __init__(self, *, steps: int, then: Spec[Schedule]) -> None:
        self.steps, self.then = _positive(steps, "Warmup.steps"), then()

    def value(self, progress: TrainingProgress) -> float:
        return min(1.0, (progress.step + 1) / self.steps) * self.then.value(progress)


@register
class PiecewiseLinear(Schedule):
    """Straight lines between points (fraction of the run, value); constant before the first point and after the last.

    Published as factors of weight decay: `((0.7, 1.0), (1.0, 0.5))` in Parameter Golf #1729, and
    `((0.4, 1.0), (0.85, 0.65), (1.0, 1.5))` in #1512's branch (#1493 gained 0.001 by it), where the stronger one has 0.5
    and 1.75. With a learning rate that falls to 0, a late rise has nearly no effect.
    """

    def __init__(self, *, points: tuple[tuple[float, float], ...]) -> None:
        fractions = [fraction for fraction, _ in points]
        if len(points) < 2 or any(not 0 <= a < b <= 1 for a, b in pairwise(fractions)):
            cause = f"expected at least two points with ascending fractions in [0, 1], got fractions {fractions}"
            raise RecipeError(cause, where="PiecewiseLinear.points")
        self.points = points

    def value(self, progress: TrainingProgress) -> float:
        segments = pairwise(self.points)
        (a, start), (b, end) = next((s for s in segments if progress.fraction < s[1][0]), self.points[-2:])
        return _between(start, end, (progress.fraction - a) / (b - a))


@register
class InverseLRRamp(Schedule):
    """For weight decay (Parameter Golf #309, #675): from `low` to `high` as the learning rate's factor s goes from 1 to 0.

    The value is the decay itself, so it stands beside `weight_decay=1.0`, and reads s from `TrainingProgress.lr_scale`, which holds it
    wherever weight decay is taken: W <- (1 - lr s (low + (high - low) (1 - s))) W. What acts, s times the value, rises
    only to 0.0267, at s = 2/3, and then falls to 0.
    """

    def __init__(self, *, low: float = 0.02, high: float = 0.08) -> None:
        self.low, self.high = low, high

    def value(self, progress: TrainingProgress) -> float:
        return self.low + (self.high - self.low) * max(0.0, 1.0 - progress.lr_scale)


def _between(start: float, end: float, done: float) -> float:
    """On the straight line from `start`, where `done` is 0 or less, to `end`, where it is 1 or more."""
    done = min(1.0, max(0.0, done))
    return (1 - done) * start + done * end


def _positive(steps: int, where: str) -> int:
    if steps < 1:
        raise RecipeError(f"expected at least 1, got {steps}", where=where)
    return steps
