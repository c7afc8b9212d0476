"""The clock of a score: how long it will take, as its first blocks say, and whether that is within the limit."""

from __future__ import annotations

import time
from collections.abc import Callable

TIME_LIMIT = 600.0  # seconds, of the standard task
FORECAST_AFTER = 0.05  # of the targets, after which a forecast is kept for the record


class TimeEstimate:
    """Told how many targets of `targets` are done. The first block is left out of the speed: on CUDA it compiles.

    clock: returns the time in seconds.
    """

    def __init__(self, targets: float, limit: float, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.targets, self.limit, self.clock = targets, limit, clock
        self.started = clock()
        self.forecast: float | None = None  # seconds in all, as first said when EARLY targets were done
        self.elapsed = 0.0
        self._first: tuple[int, float] | None = None  # targets and seconds of the first block

    def update(self, done: int) -> float:
        """Seconds in all, expected when so many targets are done."""
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
        over = ", over the limit of" if expected > self.limit else " of"
        return f"forecast {expected:,.0f} s{over} {self.limit:,g} s"
