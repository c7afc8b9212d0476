"""Sums, norms and softmax over rows, in a fixed order.

A sum of a row is made of eight partial sums in float64: element i belongs to partial sum i mod 8, in ascending order.
They are added pairwise: 0 + 4, 1 + 5, 2 + 6, 3 + 7, then 0 + 2, 1 + 3, then 0 + 1. Results are rounded once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitgolf.portable.elementary import exp_value, log_value

Floats = NDArray[np.float32]

LANES = 8
"""Partial sums of a row."""


def add_lanes(lanes: NDArray[np.float64]) -> float:
    """The sum of eight partial sums, in the fixed order."""
    a, b, c, d = lanes[0] + lanes[4], lanes[1] + lanes[5], lanes[2] + lanes[6], lanes[3] + lanes[7]
    return (a + c) + (b + d)


def sum_kernel(x: Floats, square: bool, divisor: float, out: Floats) -> None:
    """Write the sum of each row of x (R, n), or of its squares, divided by `divisor`, to `out` (R,)."""
    lanes = np.empty(LANES, np.float64)
    for row in range(x.shape[0]):
        add_row(x[row], square, lanes)
        out[row] = add_lanes(lanes) / divisor


def add_row(x: Floats, square: bool, lanes: NDArray[np.float64]) -> None:
    """Write the partial sums of x (n,), or of its squares, to `lanes`."""
    lanes[:] = 0.0
    whole = len(x) - len(x) % LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            value = np.float64(x[i + lane])
            lanes[lane] += value * value if square else value
    for i in range(whole, len(x)):
        value = np.float64(x[i])
        lanes[i - whole] += value * value if square else value


def norm_kernel(x: Floats, out: Floats) -> None:
    """Write the square root of the sum of squares of each row of x (R, n) to `out` (R,)."""
    lanes = np.empty(LANES, np.float64)
    for row in range(x.shape[0]):
        add_row(x[row], True, lanes)
        out[row] = np.sqrt(add_lanes(lanes))


def rms_norm_kernel(x: Floats, epsilon: float, out: Floats) -> None:
    """Write x / sqrt(mean(x^2) + epsilon) of each row of x (R, n) to `out` (R, n)."""
    lanes = np.empty(LANES, np.float64)
    for row in range(x.shape[0]):
        add_row(x[row], True, lanes)
        scale = 1.0 / np.sqrt(add_lanes(lanes) / x.shape[1] + epsilon)
        for i in range(x.shape[1]):
            out[row, i] = np.float64(x[row, i]) * scale


def softmax_kernel(x: Floats, largest_of_rows: Floats, logarithm: bool, out: Floats) -> None:
    """Write the softmax of each row of x (R, n), or its logarithm, to `out` (R, n).

    largest_of_rows: (R,), the largest element of each row.  NaN or a row of only -inf gives NaN.
    """
    lanes, powers = np.empty(LANES, np.float64), np.empty(x.shape[1] + LANES, np.float64)
    count = x.shape[1]
    for row in range(x.shape[0]):
        largest = np.float64(largest_of_rows[row])
        for i in range(count):
            powers[i] = exp_value(np.float64(x[row, i]) - largest)
        powers[count : count + LANES] = 0.0  # adding zero changes no partial sum
        lanes[:] = 0.0
        for i in range(0, count, LANES):
            for lane in range(LANES):
                lanes[lane] += powers[i + lane]
        total = add_lanes(lanes)
        if logarithm:
            offset = log_value(total)
            for i in range(count):
                out[row, i] = (np.float64(x[row, i]) - largest) - offset
        else:
            for i in range(count):
                out[row, i] = powers[i] / total


def cumulative_sum_kernel(x: Floats, out: Floats) -> None:
    """Write the cumulative sums over axis 1 of x (R, n, m), in ascending order, each rounded to float32, to `out`."""
    for row in range(x.shape[0]):
        for j in range(x.shape[2]):
            out[row, 0, j] = x[row, 0, j]
        for i in range(1, x.shape[1]):
            for j in range(x.shape[2]):
                out[row, i, j] = out[row, i - 1, j] + x[row, i, j]
