"""Estimate of the total time of a score, from the speed so far, and comparison with the time limit."""

from __future__ import annotations

import time
from collections.abc import Callable

TIME_LIMIT = 600.0  # seconds, the evaluation limit of Parameter Golf
FORECAST_AFTER = 0.05  # share of the targets after which the estimate is kept as `TimeEstimate.forecast`


class TimeEstimate:
    """Estimates the total seconds of a score of `targets` targets.

    The first batch does not count for the speed, since it includes compilation on CUDA. limit: seconds.
    clock: returns the current time in seconds.
    """

    def __init__(self, targets: float, limit: float, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.targets, self.limit, self.clock = targets, limit, clock
        self.started = clock()
        self.forecast: float | None = None  # total seconds, estimated once `FORECAST_AFTER` of the targets were done
        self.elapsed = 0.0
        self._first: tuple[int, float] | None = None  # targets and seconds of the first batch

    def update(self, done: int) -> float:
        """Record that `done` targets are scored. Returns the expected total seconds."""
        seconds = self.clock() - self.started
        self.elapsed = max(seconds, 1e-9)
        if self._first is None:
            self._first = done, seconds
        before, spent = self._first if done > self._first[0] else (0, 0.0)
        expected = seconds + max(0.0, self.targets - done) * (seconds - spent) / max(done - before, 1)
        if self.forecast is None and done >= min(FORECAST_AFTER * self.targets + before, self.targets):
            self.forecast = expected
        return expected

    def describe(self, expected: float) -> str:
        """The expected total and the limit, for a line of progress."""
        over = ", over the limit of" if expected > self.limit else " of"
        return f"forecast {expected:,.0f} s{over} {self.limit:,g} s"
