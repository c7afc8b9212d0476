"""The training clock: where a run stands, which every schedule is a function of, and what calibration needs of it."""

from __future__ import annotations

from typing import NamedTuple


class TrainingProgress(NamedTuple):
    """A moment of training. A limit of 0 is no limit; at least one of the two limits is set."""

    step: int  # steps done
    max_steps: int  # limit on steps
    elapsed_seconds: float  # seconds of the training clock gone by
    max_seconds: float  # limit on them
    lr_scale: float = 1.0  # the factor of the learning rate, where it is known: for what follows it

    @property
    def fraction(self) -> float:
        """How much of the run is done, in [0, 1]: by the limit that will be reached first."""
        by_step = self.step / self.max_steps if self.max_steps else 0.0
        by_clock = self.elapsed_seconds / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(by_step, by_clock))

    @property
    def steps_left(self) -> float:
        """Steps until the end, estimated on the clock from the mean time of the steps so far."""
        left = float("inf")
        if self.max_steps:
            left = self.max_steps - self.step
        if self.max_seconds and self.step:
            left = min(
                left, max(0.0, self.max_seconds - self.elapsed_seconds) * self.step / max(self.elapsed_seconds, 1e-9)
            )
        return left


class CalibrationReserve(NamedTuple):
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
