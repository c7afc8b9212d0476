"""Values that change along a run, as pure functions of `Now`: factors of learning rate and weight decay, momentum."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bitgolf.config.spec import Spec, register
from bitgolf.errors import RecipeError
from bitgolf.runtime.progress import Now


class Schedule(ABC):
    """A number at each moment of training. `now.step` counts the steps already done: the first step sees 0."""

    @abstractmethod
    def value(self, now: Now) -> float: ...


@register
class Constant(Schedule):
    def __init__(self, *, value: float = 1.0) -> None:
        self.constant = value

    def value(self, now: Now) -> float:
        return self.constant


@register
class Ramp(Schedule):
    """From `start` to `end` in a straight line over the first `steps` steps, then `end`: the warm-up of momentum."""

    def __init__(self, *, start: float, end: float, steps: int) -> None:
        self.start, self.end, self.steps = start, end, _positive(steps, "Ramp.steps")

    def value(self, now: Now) -> float:
        return _between(self.start, self.end, now.step / self.steps)


@register
class WarmdownSteps(Schedule):
    """1, then down to 0 in a straight line over the last `steps` steps (the challenge's baseline).

    On the clock the steps left are estimated from the mean time of those done, so the line bends with the machine's
    speed, and slow first steps lower it for a moment. A warm-down longer than the run decays from the start.
    """

    def __init__(self, *, steps: int) -> None:
        self.steps = _positive(steps, "WarmdownSteps.steps")

    def value(self, now: Now) -> float:
        return min(1.0, now.steps_left / self.steps)


@register
class WarmdownFraction(Schedule):
    """1, then down to 0 over the last `fraction` of the run, but never under `floor` (pull requests 1218 and 1787)."""

    def __init__(self, *, fraction: float, floor: float = 0.0) -> None:
        if not 0 < fraction <= 1:
            raise RecipeError(f"a fraction is in (0, 1], got {fraction}", place="WarmdownFraction.fraction")
        if not 0 <= floor < 1:
            raise RecipeError(f"a floor is in [0, 1), got {floor}", place="WarmdownFraction.floor")
        self.fraction, self.floor = fraction, floor

    def value(self, now: Now) -> float:
        return min(1.0, max((1.0 - now.progress) / self.fraction, self.floor))


@register
class Warmup(Schedule):
    """`then`, times a factor that grows in a straight line from 1/steps at the first step to 1 at step `steps`."""

    def __init__(self, *, steps: int, then: Spec[Schedule]) -> None:
        self.steps, self.then = _positive(steps, "Warmup.steps"), then()

    def value(self, now: Now) -> float:
        return min(1.0, (now.step + 1) / self.steps) * self.then.value(now)


@register
class HoldRamp(Schedule):
    """For weight decay (#1512's branch; Parameter Golf #1493 gained 0.001 by it): 1 until `hold` of the run is done.

    Then in a straight line to `low` at `bottom`, and on to `high` at the end. The stronger one is (0.50, 1.75). With a
    learning rate that falls to 0, the late rise is nearly without effect.
    """

    def __init__(self, *, hold: float = 0.4, low: float = 0.65, bottom: float = 0.85, high: float = 1.5) -> None:
        if not 0 <= hold < bottom < 1:
            raise RecipeError(f"0 <= hold < bottom < 1 does not hold of {hold} and {bottom}", place="HoldRamp")
        self.hold, self.low, self.bottom, self.high = hold, low, bottom, high

    def value(self, now: Now) -> float:
        if now.progress < self.bottom:
            return _between(1.0, self.low, (now.progress - self.hold) / (self.bottom - self.hold))
        return _between(self.low, self.high, (now.progress - self.bottom) / (1 - self.bottom))


@register
class Taper(Schedule):
    """For weight decay (Parameter Golf #1729): 1 until `since` of the run is done, then in a straight line to `end`."""

    def __init__(self, *, since: float = 0.7, end: float = 0.5) -> None:
        if not 0 <= since < 1:
            raise RecipeError(f"a moment is in [0, 1), got {since}", place="Taper.since")
        self.since, self.end = since, end

    def value(self, now: Now) -> float:
        return _between(1.0, self.end, (now.progress - self.since) / (1 - self.since))


@register
class RampDecay(Schedule):
    """For weight decay (Parameter Golf #309, #675): from `low` to `high` as the learning rate's factor s goes from 1 to 0.

    The value is the decay itself, so it stands beside `weight_decay=1.0`, and reads s from `Now.rate`, which holds it
    wherever weight decay is taken: W <- (1 - lr s (low + (high - low) (1 - s))) W. What acts, s times the value, rises
    only to 0.0267, at s = 2/3, and then falls to 0.
    """

    def __init__(self, *, low: float = 0.02, high: float = 0.08) -> None:
        self.low, self.high = low, high

    def value(self, now: Now) -> float:
        return self.low + (self.high - self.low) * max(0.0, 1.0 - now.rate)


def _between(start: float, end: float, done: float) -> float:
    """On the straight line from `start`, where `done` is 0 or less, to `end`, where it is 1 or more."""
    done = min(1.0, max(0.0, done))
    return (1 - done) * start + done * end


def _positive(steps: int, place: str) -> int:
    if steps < 1:
        raise RecipeError(f"expected at least 1, got {steps}", place=place)
    return steps
