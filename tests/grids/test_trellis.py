"""Tests of the trellis: the published free distances, and the state machine against its parity checks."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import RecipeError
from bitgolf.grids.trellis import PARITY_CHECKS, TrellisGrid
from helpers.examples import examples

TRELLISES = [states for states in PARITY_CHECKS if states > 1]
FREE_DISTANCE = {4: 9, 8: 10, 16: 11, 32: 13, 64: 14, 128: 16, 256: 16}
"""Squared free distances, relative to that of neighbouring points; parallel transitions limit the last two.

Source: Ungerboeck 1982, Table I.
"""


def walked(states: int, indices: list[int]) -> list[int]:
    """Return z0 of every index, computed from the parity checks alone: Σ_i h0_i z0(n-i) + h1_i z1(n-i) is even."""
    h0, h1 = PARITY_CHECKS[states]
    found: list[int] = []
    for n in range(len(indices)):
        back = range(1, min(n, states.bit_length() - 1) + 1)
        found.append(sum((h0 >> i & 1) * found[n - i] + (h1 >> i & 1) * (indices[n - i] & 1) for i in back) % 2)
    return found


@pytest.mark.parametrize("states", TRELLISES)
def test_two_ways_lead_out_of_every_state_and_two_into_it(states: int) -> None:
    following = TrellisGrid(states).next_state
    assert following.shape == (states, 2) and following.dtype == np.uint8
    for state in range(states):
        assert following[state, 0] != following[state, 1]
        came, by = np.nonzero(following == state)
        # Ways that meet, like ways that part, are of one half of the points and of either parity.
        assert len(set(came)) == 2 and set(by) == {0, 1} and len({c & 1 for c in came}) == 1


@pytest.mark.parametrize("states", TRELLISES)
def test_paths_part_as_far_as_in_the_published_table(states: int) -> None:
    """The smallest distance of two paths that diverge and merge; by linearity, of one path from the all-zero path."""
    following = TrellisGrid(states).next_state
    away = {0: 4.0, 1: 1.0, 2: 4.0, 3: 1.0}  # by 2 z1 + z0: neighbours stand half a step apart
    best, queue = {}, [(away[2], int(following[0, 1]))]
    while queue:
        distance, state = heapq.heappop(queue)
        if state in best:
            continue
        best[state] = distance
        for z1 in range(2):
            z0 = state & 1
            step = away[2 * z1 + z0] if z0 or z1 else 0.0
            heapq.heappush(queue, (distance + step, int(following[state, z1])))
    assert min(best[0], 16.0) == FREE_DISTANCE[states]


@settings(max_examples=examples(200), deadline=None)
@given(states=st.sampled_from(TRELLISES), indices=st.lists(st.integers(-127, 127), max_size=60))
def test_halves_are_those_of_a_walk_by_parity_checks(states: int, indices: list[int]) -> None:
    halves = TrellisGrid(states).half_offsets(np.array(indices, np.int8)[:, None])
    assert halves.dtype == np.uint8 and halves[:, 0].tolist() == walked(states, indices)


@pytest.mark.parametrize("states", list(PARITY_CHECKS))
def test_columns_are_sequences_of_their_own_and_begin_at_whole_steps(states: int) -> None:
    indices = np.random.default_rng(0).integers(-9, 9, (50, 7)).astype(np.int8)
    halves = TrellisGrid(states).half_offsets(indices)
    assert halves.shape == indices.shape and not halves[0].any() and halves.any() == (states > 1)
    for j in range(7):
        assert (halves[:, j] == TrellisGrid(states).half_offsets(indices[:, j : j + 1])[:, 0]).all()


def test_other_numbers_of_states_are_refused() -> None:
    for states in (0, 2, 7, 512):
        with pytest.raises(RecipeError):
            TrellisGrid(states)
