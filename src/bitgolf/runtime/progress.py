"""Progress of training, the input of every schedule, and the time reserved for calibration."""

from __future__ import annotations

from typing import NamedTuple


class TrainingProgress(NamedTuple):
    """Steps and seconds of training done, and their limits. 0 means no limit; at least one of the two is set."""

    step: int  # optimizer steps done
    max_steps: int  # step limit
    elapsed_seconds: float  # on the training clock
    max_seconds: float  # time limit, on the training clock
    lr_scale: float = 1.0  # current factor of the learning rate, for schedules that depend on it

    @property
    def fraction(self) -> float:
        """Fraction of the run that is done, in [0, 1]: the larger one of the two limits' fractions."""
        by_step = self.step / self.max_steps if self.max_steps else 0.0
        by_clock = self.elapsed_seconds / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(by_step, by_clock))

    @property
    def steps_left(self) -> float:
        """Steps until the end. For a time limit, estimated from the mean time of the steps so far."""
        left = float("inf")
        if self.max_steps:
            left = self.max_steps - self.step
        if self.max_seconds and self.step:
            left = min(
                left, max(0.0, self.max_seconds - self.elapsed_seconds) * self.step / max(self.elapsed_seconds, 1e-9)
            )
        return left


class CalibrationReserve(NamedTuple):
    """Time on the training clock that is reserved for calibration, measured before training.

    In each round every process observes one batch.
    """

    rounds: int
    round_seconds: float
    fixed_seconds: float  # after the last round: all-reduce of the sums, and their copy to the CPU

    @property
    def seconds(self) -> float:
        """Reserved time in seconds: 10 % above the measurement, since batches differ in duration."""
        return 1.1 * (self.rounds * self.round_seconds + self.fixed_seconds)
