"""The path of least cost through a trellis: a plain search, and the same one compiled (numba)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgolf.grids.trellis import LOW, TOP, TrellisGrid

Floats = NDArray[np.float32]


def search(x: Floats, shrink: Floats, following: NDArray[np.uint8], points: NDArray[np.int16]) -> None:
    """Fill `points` (n,), 2 index + z0, with the path from state 0 that makes Σ (x - v)² + shrink v² least, v = point / 2.

    x: the sequence in steps.  shrink (n,): what a bit costs, as the square of the value that needs it (Gaussian tails).
    """
    n, states = len(x), len(following)
    cost = np.full(states, np.inf, np.float32)
    cost[0] = 0.0
    came = np.zeros((n, states), np.uint8)  # the state before
    taken = np.zeros((n, 4), np.int16)  # the index by (z0, parity)
    added = np.zeros(4, np.float32)
    for i in range(n):
        weight = np.float32(1.0) + shrink[i]
        centre = x[i] / weight  # where the cost is least; it rises with the distance from there
        for z0 in range(2):
            offset = np.float32(0.5) * np.float32(z0)
            below = min(max(np.floor(centre - offset), np.float32(LOW)), np.float32(TOP - 1))
            for m in (below, below + np.float32(1.0)):  # neighbours: one of each parity, also at the ends
                branch = 2 * z0 + (int(m) & 1)
                away = m + offset - centre
                taken[i, branch] = int(m)
                added[branch] = weight * away * away
        least = np.full(states, np.inf, np.float32)
        for s in range(states):
            for z1 in range(2):
                to = following[s, z1]
                total = cost[s] + added[2 * (s & 1) + z1]
                if total < least[to]:
                    least[to] = total
                    came[i, to] = s
        cost = least
    state = int(np.argmin(cost))
    for i in range(n - 1, -1, -1):
        before = int(came[i, state])
        z1 = 1 if following[before, 1] == state and following[before, 0] != state else 0
        points[i] = 2 * taken[i, 2 * (before & 1) + z1] + (before & 1)
        state = before


@cache
def compiled() -> Callable[..., None]:
    """`search` in machine code: made once for each process, in about two seconds."""
    import numba

    jit: Any = numba.njit(nogil=True, cache=False, fastmath=False)
    return jit(search)


def find(grid: TrellisGrid, x: Floats, shrink: Floats) -> NDArray[np.int16]:
    """(n,) the best points of one sequence, in half steps: 2 index + z0."""
    if grid.states == 1:
        return 2 * np.clip(np.rint(x / (1 + shrink)), LOW, TOP).astype(np.int16)
    points = np.empty(len(x), np.int16)
    compiled()(x, shrink, grid.following, points)
    return points
