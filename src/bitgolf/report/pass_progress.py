"""Progress of a pass over data of known size: share, rate, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

from bitgolf.report.log import RunLog

_BAR = 20  # characters


class PassProgress:
    """Reports progress of a pass over `total` bytes, of which `done()` are read; a total of 0 is unknown.

    name: what the pass does, such as "pass 1 of 2, fingerprints". start: bytes that an earlier call had processed.
    """

    def __init__(self, log: RunLog, name: str, total: int, done: Callable[[], int]) -> None:
        self._log, self._name, self._total, self._done = log, name, total, done
        self._started, self._start = time.perf_counter(), 0

    def restart(self) -> None:
        """Measure the rate from here on; for a pass that continues an earlier one."""
        self._started, self._start = time.perf_counter(), self._done()

    def __call__(self) -> None:
        """Report the state of now."""
        self._log.progress(f"{self._name}: {self.line()}")

    @property
    def rate(self) -> float:
        """Bytes per second so far."""
        return (self._done() - self._start) / max(time.perf_counter() - self._started, 1e-9)

    def line(self) -> str:
        """Return a bar, the share that is done, the rate in MB/s, and the time that is left."""
        done, rate = self._done(), self.rate
        speed = f"{rate / 1e6:.1f} MB/s"
        if not self._total:
            return f"{done / 1e6:,.0f} MB, {speed}"
        share = min(done / self._total, 1)
        bar = ("#" * round(_BAR * share)).ljust(_BAR, ".")
        left = f", {duration((self._total - done) / rate)} left" if rate > 0 and done < self._total else ""
        return f"[{bar}] {100 * share:.0f} % of {self._total / 1e6:,.0f} MB, {speed}{left}"


def duration(seconds: float) -> str:
    """Return a duration in words: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
