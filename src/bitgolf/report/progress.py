"""Progress of work that takes long: the state that is shown meanwhile, and the rate of work whose size is known."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bitgolf.report.wrapping import columns_of

LEAST_SHARE, LEAST_SECONDS = 0.01, 5.0
"""Share of the work that must be done, or seconds that must have passed, before the time left is estimated."""

LEAST_MEGABYTES = 100_000
"""Bytes below which a size is shown in kB."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of the work that is going on.

    stage: what is done, in a word or two, such as "train". share: how much of it is done, in [0, 1]; None if unknown.
    seconds_left: expected time until its end; None if unknown. details: further facts, the most important first, such
    as "loss 3.214" and "41,200 tokens/s".
    """

    stage: str
    share: float | None = None
    seconds_left: float | None = None
    details: tuple[str, ...] = ()

    @property
    def percent(self) -> str:
        """The share in percent, "" if it is unknown."""
        return "" if self.share is None else f"{100 * min(max(self.share, 0.0), 1.0):.0f} %"

    @property
    def time_left(self) -> str:
        """The time left in words, "" if it is unknown or nothing is left to do."""
        known = self.seconds_left is not None and (self.share is None or self.share < 1)
        return f"{duration(self.seconds_left or 0.0)} left" if known else ""

    def line(self, width: int) -> str:
        """The state as one line of text: `train: 43 %, 2 min 10 s left, loss 3.214, 41,200 tokens/s`.

        Facts that do not fit `width` columns are left out from the right.
        """
        facts = [fact for fact in (self.percent, self.time_left, *self.details) if fact]
        lines = [self.stage, *(f"{self.stage}: {', '.join(facts[: n + 1])}" for n in range(len(facts)))]
        return next((line for line in reversed(lines) if columns_of(line) <= width), self.stage)


ShowProgress = Callable[[Progress], None]
"""Called with the state of some work, as often as it changes."""


class WorkProgress:
    """Reports the progress of work whose size is known: its share, its rate, and the time that is left.

    show: receives the state. stage: as in `Progress`. unit: of the size, such as "tokens"; sizes in "bytes" are shown in
    kB, MB or GB.
    """

    def __init__(self, show: ShowProgress, stage: str, unit: str) -> None:
        self.show, self.stage, self.unit = show, stage, unit
        self.restart(0)

    def restart(self, done: int) -> None:
        """Measure the rate from here on. done: units that were done before, by an earlier call."""
        self._started, self._before = time.perf_counter(), done

    def rate(self, done: int) -> float:
        """Units per second since the start."""
        return (done - self._before) / max(self._seconds(), 1e-9)

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def state(self, done: int, total: int, *details: str) -> Progress:
        """The state when `done` of `total` units are done; a total of 0 is unknown. details: shown before the rate."""
        rate = self.rate(done)
        enough = done - self._before >= LEAST_SHARE * total or self._seconds() >= LEAST_SECONDS
        left = (total - done) / rate if total and rate and enough else None
        size = f"{self._size(done).removesuffix(f' {self.unit}')} of {self._size(total)}" if total else self._size(done)
        facts = (*details, f"{self._size(rate)}/s", size)
        return Progress(self.stage, min(done / total, 1.0) if total else None, left, facts)

    def update(self, done: int, total: int, *details: str) -> None:
        """Report the state; see `state`."""
        self.show(self.state(done, total, *details))

    def _size(self, count: float) -> str:
        if self.unit == "bytes":
            if count < LEAST_MEGABYTES:
                return f"{count / 1e3:.1f} kB"
            return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
        return f"{count:,.0f} {self.unit}"


def duration(seconds: float) -> str:
    """Return a duration in words: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
