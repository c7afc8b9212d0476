"""Bit allocation: step sizes by sensitivity. Each row and column of a matrix gets a relative step; one global step,
shared by all matrices of a rule, is then chosen to meet the bit budget.

At high rate the mean squared error is proportional to step², and one more bit per weight halves the step. The optimal
allocation under a bit budget therefore makes step² times sensitivity a constant (reverse water-filling where the
standard deviation falls below the step). Source: Shoham and Gersho 1988 (IEEE Trans. ASSP 36).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitgolf.config.ranges import PositiveFraction
from bitgolf.config.registry import register
from bitgolf.errors import RecipeError
from bitgolf.quantize.stats import MatrixStats

BINS_PER_DOUBLING, HISTOGRAM_DOUBLINGS = 64, 64


class LogSteps(NamedTuple):
    """log2 of the relative steps of a matrix, by row (R,) and by column (C,). The global step is a further summand."""

    rows: Tensor
    columns: Tensor


class BitAllocation(ABC):
    """A rule for the relative steps of the rows and columns of a matrix."""

    @abstractmethod
    def log_steps(self, w: Tensor, stats: MatrixStats, pivots: Tensor) -> LogSteps:
        """Relative steps for float32 `w` (R, C).

        pivots: (C,), the cost of a unit error in each column, after GPTQ compensates for it in later columns.
        """


@register
class EqualRate(BitAllocation):
    """Row steps proportional to the standard deviation of the row: about equally many bits per weight in every row.

    Ignores sensitivities; all columns have the same step.
    """

    def log_steps(self, w: Tensor, stats: MatrixStats, pivots: Tensor) -> LogSteps:
        spread = w.square().mean(1).sqrt()
        return LogSteps(_log2(spread, spread.mean()), torch.zeros(w.shape[1]))


@register
class EqualCost(BitAllocation):
    """Steps proportional to sensitivity ** -0.5, so that the error of every weight has the same expected cost.

    rows: use the Fisher information of the outputs.  columns: use the pivots of GPTQ.
    matrices: compare matrices with one another; otherwise the mean step of each follows its own standard deviation.
    min_sensitivity: lower bound of a sensitivity, as a fraction of the mean. Calibration text is finite: a row or
    column without signal there may still be used.
    """

    def __init__(
        self,
        *,
        rows: bool = True,
        columns: bool = True,
        matrices: bool = True,
        min_sensitivity: PositiveFraction = 0.01,
    ) -> None:
        if not 0 < min_sensitivity <= 1:
            raise RecipeError(
                f"min_sensitivity must be above 0 and at most 1, got {min_sensitivity}",
                where="EqualCost.min_sensitivity",
            )
        self.rows, self.columns, self.matrices, self.min_sensitivity = rows, columns, matrices, min_sensitivity

    def log_steps(self, w: Tensor, stats: MatrixStats, pivots: Tensor) -> LogSteps:
        outputs, inputs = self._bounded(stats.output_fisher), self._bounded(pivots)
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

    def _bounded(self, sensitivity: Tensor) -> Tensor:
        return sensitivity.clamp_min(float(self.min_sensitivity * sensitivity.mean()))


def gaussian_bits(spread: NDArray[np.floating], rate: float = 1.0) -> NDArray[np.floating]:
    """Bits of a Gaussian weight with a standard deviation of `spread` steps: 2.047 + log2(spread) at high rate.

    rate: weight of the bit cost in the Viterbi search. At 1, weights below a third of a step cost no bits. The constant
    1.9 is fitted to measurements with 1 to 256 states (within 0.05 bit from 0.1 bit up).
    """
    return 0.5 * np.log2(1.0 + np.maximum(2 * np.pi * np.e * spread * spread - 1.9 * rate, 0.0))


class RateHistogram:
    """Histogram of log2(local standard deviation / step) over weights, for a global step of 1."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS_PER_DOUBLING * HISTOGRAM_DOUBLINGS, np.int64)
        self.bin_centres = (np.arange(len(self.counts)) + 0.5) / BINS_PER_DOUBLING - HISTOGRAM_DOUBLINGS / 2

    @staticmethod
    def sum(demands: Iterable[RateHistogram]) -> RateHistogram:
        """One histogram of all the weights."""
        total = RateHistogram()
        for one in demands:
            total.counts += one.counts
        return total

    def add(self, w: Tensor, steps: LogSteps) -> None:
        """Count the weights of a matrix (R, C) with these relative steps."""
        ratio = local_std(w).log2() - steps.rows[:, None] - steps.columns
        found = ((ratio + HISTOGRAM_DOUBLINGS / 2) * BINS_PER_DOUBLING).clamp(0, len(self.counts) - 1)
        self.counts += torch.bincount(found.long().flatten(), minlength=len(self.counts)).numpy()

    def solve_global_step(self, target: float, rate: float = 1.0) -> float:
        """log2 of the global step at which weights have `target` bits on average, by bisection on `gaussian_bits`."""
        low, high = -float(HISTOGRAM_DOUBLINGS), float(HISTOGRAM_DOUBLINGS)
        for _ in range(50):
            middle = (low + high) / 2
            mean = float((self.counts * gaussian_bits(2.0 ** (self.bin_centres - middle), rate)).sum()) / max(
                int(self.counts.sum()), 1
            )
            low, high = (middle, high) if mean > target else (low, middle)
        return low


def local_std(w: Tensor) -> Tensor:
    """(R, C) the expected standard deviation of each weight, as a product of row and column factors (rank one)."""
    squares = w.float().square()
    mean = squares.mean().clamp_min(1e-30)
    rows, columns = squares.mean(1).clamp_min(1e-6 * mean), squares.mean(0).clamp_min(1e-6 * mean)
    return (rows[:, None] * (columns / mean)).sqrt()


def rate_histogram(matrices: Iterable[tuple[Tensor, LogSteps]]) -> RateHistogram:
    """The histogram of the weights of these matrices (R, C) with their relative steps."""
    found = RateHistogram()
    for w, steps in matrices:
        found.add(w, steps)
    return found


def _log2(x: Tensor, mean: Tensor) -> Tensor:
    """log2 of `x`, whose values below a thousandth of `mean` are raised to it, so that zero is allowed."""
    return x.clamp_min(float(1e-3 * mean) or 1e-30).log2()


def _mean_log2(x: Tensor) -> float:
    return float(x.log2().mean())
