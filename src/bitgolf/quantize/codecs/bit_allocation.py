"""Steps for every row and column of a matrix, and one unit for all matrices, such that the bits are spent where they count.

At high rate a step's square is the error it leaves, and a bit halves the step. So under a budget of bits the least total
cost has the same cost everywhere: step² times sensitivity is one constant (reverse water-filling where spreads fall below
their steps). Source: Shoham and Gersho 1988 (IEEE Trans. ASSP 36); spec, 16.5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.quantize.stats import MatrixStats

BINS_PER_DOUBLING, HISTOGRAM_DOUBLINGS = 64, 64


class LogSteps(NamedTuple):
    """log2 of the steps of a matrix but for the common unit: those of its rows (R,) and of its columns (C,)."""

    rows: Tensor
    columns: Tensor


class BitAllocation(ABC):
    @abstractmethod
    def log_steps(self, w: Tensor, stats: MatrixStats, pivots: Tensor) -> LogSteps:
        """For float32 `w` (R, C). `pivots` (C,): what an error of 1 costs, by column, once the solver has answered it."""


@register
class EqualRate(BitAllocation):
    """Every row's step is a fixed share of its standard deviation: as many bits to each weight, whatever it does."""

    def log_steps(self, w: Tensor, stats: MatrixStats, pivots: Tensor) -> LogSteps:
        spread = w.square().mean(1).sqrt()
        return LogSteps(_log2(spread, spread.mean()), torch.zeros(w.shape[1]))


@register
class EqualCost(BitAllocation):
    """Steps such that every weight's error costs the same, as far as calibration can tell.

    rows: by how much their outputs matter.  columns: by the solver's pivots.  matrices: one against another; without
    it every matrix has the mean cost 1.
    floor: a sensitivity is at least this share of its mean, since what calibration did not see may come.
    """

    def __init__(
        self, *, rows: bool = True, columns: bool = True, matrices: bool = True, min_sensitivity: float = 0.01
    ) -> None:
        if not 0 < min_sensitivity <= 1:
            raise RecipeError(
                f"a floor is above 0 and at most 1, not {min_sensitivity}", where="EqualCost.min_sensitivity"
            )
        self.rows, self.columns, self.matrices, self.min_sensitivity = rows, columns, matrices, min_sensitivity

    def log_steps(self, w: Tensor, stats: MatrixStats, pivots: Tensor) -> LogSteps:
        outputs, inputs = self._floored(stats.output_fisher), self._floored(pivots)
        rows = -_log2(outputs, outputs.mean()) / 2 if self.rows else torch.full((len(w),), -_mean_log2(outputs) / 2)
        columns = (
            -_log2(inputs, inputs.mean()) / 2 if self.columns else torch.full((w.shape[1],), -_mean_log2(inputs) / 2)
        )
        if not self.matrices:
            rows, columns = (
                rows - rows.mean() + _log2(w.square().mean().sqrt(), torch.ones(())),
                columns - columns.mean(),
            )
        return LogSteps(rows, columns)

    def _floored(self, sensitivity: Tensor) -> Tensor:
        return sensitivity.clamp_min(float(self.min_sensitivity * sensitivity.mean()))


def gaussian_bits(spread: NDArray[np.floating], rate: float = 1.0) -> NDArray[np.floating]:
    """What a Gaussian weight costs whose standard deviation is `spread` steps: 2.047 + log2(spread) at high rate, and
    nothing below a third of a step where the search minds the bits. The 1.9 fits what was measured with 1 to 256 states
    (within 0.05 bit from 0.1 bit up)."""
    return 0.5 * np.log2(1.0 + np.maximum(2 * np.pi * np.e * spread * spread - 1.9 * rate, 0.0))


class RateHistogram:
    """How many weights have which ratio of spread to step, while the unit is 1."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS_PER_DOUBLING * HISTOGRAM_DOUBLINGS, np.int64)
        self.bin_centres = (np.arange(len(self.counts)) + 0.5) / BINS_PER_DOUBLING - HISTOGRAM_DOUBLINGS / 2

    @staticmethod
    def sum(demands: Iterable[RateHistogram]) -> RateHistogram:
        total = RateHistogram()
        for one in demands:
            total.counts += one.counts
        return total

    def add(self, w: Tensor, steps: LogSteps) -> None:
        ratio = local_std(w).log2() - steps.rows[:, None] - steps.columns
        found = ((ratio + HISTOGRAM_DOUBLINGS / 2) * BINS_PER_DOUBLING).clamp(0, len(self.counts) - 1)
        self.counts += torch.bincount(found.long().flatten(), minlength=len(self.counts)).numpy()

    def solve_global_step(self, target: float, rate: float = 1.0) -> float:
        """log2 of the unit at which a weight has `target` bits in the mean."""
        low, high = -float(HISTOGRAM_DOUBLINGS), float(HISTOGRAM_DOUBLINGS)
        for _ in range(50):
            middle = (low + high) / 2
            mean = float((self.counts * gaussian_bits(2.0 ** (self.bin_centres - middle), rate)).sum()) / max(
                int(self.counts.sum()), 1
            )
            low, high = (middle, high) if mean > target else (low, middle)
        return low


def local_std(w: Tensor) -> Tensor:
    """(R, C) the standard deviation that a weight's row and column let one expect."""
    squares = w.float().square()
    mean = squares.mean().clamp_min(1e-30)
    rows, columns = squares.mean(1).clamp_min(1e-6 * mean), squares.mean(0).clamp_min(1e-6 * mean)
    return (rows[:, None] * (columns / mean)).sqrt()


def rate_histogram(matrices: Iterable[tuple[Tensor, LogSteps]]) -> RateHistogram:
    found = RateHistogram()
    for w, steps in matrices:
        found.add(w, steps)
    return found


def _log2(x: Tensor, mean: Tensor) -> Tensor:
    """Of what may be zero: as if it were a thousandth of the mean."""
    return x.clamp_min(float(1e-3 * mean) or 1e-30).log2()


def _mean_log2(x: Tensor) -> float:
    return float(x.log2().mean())
