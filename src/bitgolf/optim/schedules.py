"""Values that change along a run, as pure functions of `Now`: factors of the learning rate, momentum."""

from __future__ import annotations

from abc import ABC, abstractmethod

from bitgolf.clock import Now
from bitgolf.errors import RecipeError
from bitgolf.spec import Spec, register


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
        done = min(1.0, now.step / self.steps)
        return (1 - done) * self.start + done * self.end


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


def _positive(steps: int, place: str) -> int:
    if steps < 1:
        raise RecipeError(f"expected at least 1, got {steps}", place=place)
    return steps
