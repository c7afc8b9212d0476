"""Trellis-coded quantization: a grid twice as fine, of which a finite state machine allows every other point.

Points stand half a step apart. The state's lowest bit z0 says which half of them may follow, those at whole steps or those
between; the parity of the index z1 moves the state on. So a sequence costs the bits of the coarse grid, and the best path
through the machine comes nearer than the coarse grid could: by 1.09 dB with 8 states at high rate, by 1.33 with 256, where
a lattice in as many dimensions as one likes has 1.53.

    value = step * (index + z0 / 2)        next = (state >> 1) ^ z0 * (h0 >> 1) ^ z1 * (h1 >> 1)

Sources: Marcellin and Fischer 1990 (IEEE Trans. Comm. 38, TCQ), Fischer and Wang 1992 (entropy-coded TCQ, supersets);
the codes are Ungerboeck's for amplitude modulation (1982, IEEE Trans. IT 28, Table I) as parity checks in systematic form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitgolf.errors import RecipeError

PARITY_CHECKS = {
    1: (0o0, 0o0),
    4: (0o5, 0o2),
    8: (0o13, 0o04),
    16: (0o23, 0o04),
    32: (0o45, 0o10),
    64: (0o103, 0o024),
    128: (0o235, 0o126),
    256: (0o515, 0o362),
}
"""states -> parity checks (h0, h1). One state is no trellis at all: the coarse grid."""

MIN_INDEX, MAX_INDEX = -127, 127
"""Indices are held in a byte."""


class TrellisGrid:
    """The state machine, which begins in state 0. `next_state` (states, 2): the next state by state and parity of the index.

    `previous_state` (2, states): its inverse by parity and state. A state's highest bit is the z0 of both states before it, as
    h0 has the highest bit of all and h1 has not.
    """

    def __init__(self, states: int) -> None:
        if states not in PARITY_CHECKS:
            raise RecipeError(
                f"there is no trellis of {states} states", where="states", hint=f"one of {list(PARITY_CHECKS)}"
            )
        self.states = states
        h0, h1 = PARITY_CHECKS[states]
        state = np.arange(states)
        by_state = (state >> 1) ^ (state & 1) * (h0 >> 1)
        self.next_state: NDArray[np.uint8] = np.stack([by_state, by_state ^ (h1 >> 1)], 1).astype(np.uint8)
        self.previous_state: NDArray[np.uint32] = np.argsort(self.next_state.T, 1).astype(np.uint32)

    def half_offsets(self, indices: NDArray[np.int8]) -> NDArray[np.uint8]:
        """z0 of every index (rows, columns): each column is a sequence of its own, from the first row on."""
        found = np.zeros(indices.shape, np.uint8)
        if self.states == 1:
            return found
        state = np.zeros(indices.shape[1], np.uint8)
        parity = (indices & 1).astype(np.uint8)
        for row in range(len(indices)):
            found[row] = state & 1
            state = self.next_state[state, parity[row]]
        return found
