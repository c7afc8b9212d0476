"""The training clock: where a run stands, which every schedule is a function of, and what calibration needs of it."""

from __future__ import annotations

from typing import NamedTuple


class Now(NamedTuple):
    """A moment of training. A limit of 0 is no limit; at least one of the two limits is set."""

    step: int  # steps done
    steps: int  # limit on steps
    elapsed: float  # seconds of the training clock gone by
    seconds: float  # limit on them
    rate: float = 1.0  # the factor of the learning rate, where it is known: for what follows it

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1]: by the limit that will be reached first."""
        by_step = self.step / self.steps if self.steps else 0.0
        by_clock = self.elapsed / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_step, by_clock))

    @property
    def steps_left(self) -> float:
        """Steps until the end, estimated on the clock from the mean time of the steps so far."""
        left = float("inf")
        if self.steps:
            left = self.steps - self.step
        if self.seconds and self.step:
            left = min(left, max(0.0, self.seconds - self.elapsed) * self.step / max(self.elapsed, 1e-9))
        return left


class Reserve(NamedTuple):
    """Seconds of the training clock that calibration will need, as measured before training.

    Each process observes one batch in a round.
    """

    rounds: int
    round_seconds: float
    fixed_seconds: float  # after the last round: sums over all processes, and their way to the CPU

    @property
    def seconds(self) -> float:
        """A tenth more than was measured: batches do not all take the same time."""
        return 1.1 * (self.rounds * self.round_seconds + self.fixed_seconds)
