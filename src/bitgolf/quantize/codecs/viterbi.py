"""Viterbi search of the trellis codec: for one column, and for a block of columns with GPTQ error feedback.

Both functions are plain Python that numba compiles unchanged. The compiled versions release the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgolf.grids.trellis import MAX_INDEX, MIN_INDEX, TrellisGrid

Floats = NDArray[np.float32]
PreviousState = NDArray[np.uint32]
"""(2, states): predecessor of each state, by the parity of the transition's index; `TrellisGrid.previous_state`."""


def viterbi_search(x: Floats, shrink: Floats, preceding: PreviousState, points: NDArray[np.int16]) -> None:
    """Write to `points` (n,) the path from state 0 that minimizes Σ (x - v)² + shrink v², with v = point / 2.

    x: (n,), the values in units of the step.  shrink: (n,), coefficient of the bit cost, which is quadratic in the
    value for Gaussian weights.  preceding: `TrellisGrid.previous_state`.  A point is 2 index + z0.
    Both transitions into a state have the same z0 (0 for the lower half of the states, 1 for the upper), so the inner
    loops need no branch. Of two paths of equal cost the one with the even index is taken.
    """
    n, states = len(x), preceding.shape[1]
    half = states // 2
    cost, least = np.full(states, np.inf, np.float32), np.empty(states, np.float32)
    cost[0] = 0.0
    odd = np.empty((n, states), np.uint8)  # parity of the index on the best transition into each state
    taken = np.zeros((n, 4), np.int16)  # best index, by (z0, parity)
    added = np.zeros(2, np.float32)
    for i in range(n):
        weight = np.float32(1.0) + shrink[i]
        centre = x[i] / weight  # minimum of the quadratic cost
        for z0 in range(2):
            offset = np.float32(0.5) * np.float32(z0)
            below = min(max(np.floor(centre - offset), np.float32(MIN_INDEX)), np.float32(MAX_INDEX - 1))
            for m in (below, below + np.float32(1.0)):  # neighbours, one of each parity, also after clamping
                parity, away = int(m) & 1, m + offset - centre
                taken[i, 2 * z0 + parity], added[parity] = int(m), weight * away * away
            if_even, if_odd = added[0], added[1]
            for to in range(z0 * half, (z0 + 1) * half):
                even, other = cost[preceding[0, to]] + if_even, cost[preceding[1, to]] + if_odd
                odd[i, to], least[to] = other < even, min(even, other)
        cost, least = least, cost
    state = np.int64(np.argmin(cost))
    for i in range(n - 1, -1, -1):
        z1 = np.int64(odd[i, state])
        state = np.int64(preceding[z1, state])
        points[i] = 2 * taken[i, 2 * (state & 1) + z1] + (state & 1)


def quantize_columns(
    block: Floats,
    upper: Floats,
    step: Floats,
    shrink: Floats,
    preceding: PreviousState,
    points: NDArray[np.int16],
) -> None:
    """Write to `points` (B, R) the trellis points of B columns, with GPTQ error feedback between them.

    block: (B, R), the columns; changed in place to the values that are rounded, which include the feedback.
    upper: (B, B), the diagonal block of `gptq.InverseCholesky.upper`.  step, shrink: (B, R).
    """
    error = np.empty(block.shape[1], np.float32)
    for j in range(len(block)):
        viterbi_search(block[j] / step[j], shrink[j], preceding, points[j])
        for r in range(len(error)):
            error[r] = (block[j, r] - np.float32(0.5) * np.float32(points[j, r]) * step[j, r]) / upper[j, j]
        for k in range(j + 1, len(block)):
            for r in range(len(error)):
                block[k, r] -= upper[j, k] * error[r]


MAX_VECTORIZED_STATES = 4
"""Number of states up to which `search_columns` takes less time than numba takes to import."""


def search_columns(x: Floats, shrink: Floats, preceding: PreviousState, points: NDArray[np.int16]) -> None:
    """`viterbi_search` for all columns at once, without feedback between them, in numpy alone.

    x, shrink, points: (B, R). The results are equal, bit for bit.
    """
    weight = (np.float32(1.0) + shrink).T  # (R, B)
    centre = x.T / weight
    offset = np.array([[0.0], [0.5]], np.float32)  # of z0; arrays below have axes (R, z0, parity, B)
    below = np.clip(np.floor(centre[:, None] - offset), MIN_INDEX, MAX_INDEX - 1)
    index = np.stack([below + (below % 2), below + 1 - (below % 2)], 2)
    away = index + offset[:, None] - centre[:, None, None]
    added = weight[:, None, None] * away * away
    states, columns = preceding.shape[1], np.arange(len(x))
    cost = np.full((2, states // 2, len(x)), np.inf, np.float32)
    cost[0, 0] = 0.0
    odd = np.empty((len(added), states, len(x)), np.uint8)
    for taken, of_row in zip(odd, added, strict=True):
        before = cost.reshape(states, len(x))[preceding].reshape(2, *cost.shape)  # (parity, z0, states / 2, B)
        even, other = before[0] + of_row[:, 0, None], before[1] + of_row[:, 1, None]
        taken[:] = (other < even).reshape(taken.shape)
        cost = np.minimum(even, other)
    state = np.argmin(cost.reshape(states, len(x)), 0)
    for i in range(len(added) - 1, -1, -1):
        parity = odd[i, state, columns]
        state = preceding[parity, state]
        z0 = state & 1
        points[:, i] = 2 * index[i, z0, parity, columns] + z0


class ViterbiKernels(NamedTuple):
    """`viterbi_search` and `quantize_columns`, compiled by numba."""

    search: Callable[..., None]
    round_columns: Callable[..., None]


@cache
def viterbi_kernels() -> ViterbiKernels:
    """The compiled functions. `machine_code` is imported here because numba takes a second to import."""
    from bitgolf.runtime.machine_code import compile_functions

    return ViterbiKernels(*compile_functions(viterbi_search, quantize_columns))


def best_path(grid: TrellisGrid, x: Floats, shrink: Floats) -> NDArray[np.int16]:
    """(n,) the points of minimal cost for one sequence (see `viterbi_search`), in half steps: 2 index + z0."""
    if grid.states == 1:
        return round_scalar(x, shrink)
    points = np.empty(len(x), np.int16)
    viterbi_kernels().search(x, shrink, grid.previous_state, points)
    return points


def round_scalar(x: Floats, shrink: Floats) -> NDArray[np.int16]:
    """`best_path` for one state and arrays of any shape. Without constraints each index is chosen independently."""
    return 2 * np.clip(np.rint(x / (1 + shrink)), MIN_INDEX, MAX_INDEX).astype(np.int16)
