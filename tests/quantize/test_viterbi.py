"""Viterbi search: compiled and plain versions agree, paths are optimal, and the coding gain is as expected."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from bitgolf.grids.trellis import MAX_INDEX, MIN_INDEX, PARITY_CHECKS, TrellisGrid
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.quantize.codecs.gptq import columnwise
from bitgolf.quantize.codecs.viterbi import (
    Floats,
    best_path,
    quantize_columns,
    search_columns,
    viterbi_kernels,
    viterbi_search,
)
from helpers.examples import examples

TRELLISES = [states for states in PARITY_CHECKS if states > 1]


def sequences(n: int, reach: float) -> st.SearchStrategy[Floats]:
    return arrays.arrays(np.float32, n, elements=st.floats(-reach, reach, width=32))


def prices(n: int) -> st.SearchStrategy[Floats]:
    return arrays.arrays(np.float32, n, elements=st.floats(0, 2, width=32))


def indices(points: np.ndarray) -> np.ndarray:
    return (points >> 1).astype(np.int8)


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), states=st.sampled_from(TRELLISES), n=st.integers(1, 24), reach=st.sampled_from([3.0, 160.0]))
def test_the_compiled_search_is_the_plain_one(data: st.DataObject, states: int, n: int, reach: float) -> None:
    x, shrink, grid = data.draw(sequences(n, reach)), data.draw(prices(n)), TrellisGrid(states)
    plain = np.full(n, 999, np.int16)
    viterbi_search(x, shrink, grid.previous_state, plain)
    assert best_path(grid, x, shrink).tolist() == plain.tolist()


@pytest.mark.parametrize("states", TRELLISES)
def test_long_sequences_agree_too(states: int) -> None:
    generator = np.random.default_rng(states)
    x = (generator.standard_normal(200) * 3).astype(np.float32)
    shrink, plain = np.full(200, 0.02, np.float32), np.empty(200, np.int16)
    viterbi_search(x, shrink, TrellisGrid(states).previous_state, plain)
    assert best_path(TrellisGrid(states), x, shrink).tolist() == plain.tolist()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), states=st.sampled_from(TRELLISES), shape=st.tuples(st.integers(1, 4), st.integers(1, 20)))
def test_all_columns_at_once_are_each_column_alone(data: st.DataObject, states: int, shape: tuple[int, int]) -> None:
    values = st.floats(-160, 160, width=32) | st.sampled_from([0.25, -0.25, 0.5, 1.0, 127.5, -127.0, 0.0])  # ties
    x = data.draw(arrays.arrays(np.float32, shape, elements=values))
    shrink = data.draw(arrays.arrays(np.float32, shape, elements=st.floats(0, 2, width=32)))
    grid, found, alone = TrellisGrid(states), np.full(shape, 999, np.int16), np.full(shape, 999, np.int16)
    search_columns(x, shrink, grid.previous_state, found)
    for column in range(shape[0]):
        viterbi_search(x[column], shrink[column], grid.previous_state, alone[column])
    assert found.tolist() == alone.tolist()


@pytest.mark.parametrize("states", [4, 64])
@pytest.mark.parametrize("rows", [1, 37])
def test_the_compiled_block_is_the_plain_one(states: int, rows: int) -> None:
    """Both equal `gptq.columnwise` with the search as rounding function, up to float32 rounding of sums."""
    generator = np.random.default_rng(states + rows)
    block = (generator.standard_normal((9, rows)) * 2).astype(np.float32)
    upper = np.triu(generator.standard_normal((9, 9)) * 0.2 + np.eye(9)).astype(np.float32)
    step = generator.uniform(0.3, 1.0, (9, rows)).astype(np.float32)
    shrink, grid = np.full((9, rows), 0.02, np.float32), TrellisGrid(states)
    plain, fast = (np.full((9, rows), 999, np.int16) for _ in range(2))
    left, right = block.copy(), block.copy()
    quantize_columns(left, upper, step, shrink, grid.previous_state, plain)
    viterbi_kernels().round_columns(right, upper, step, shrink, grid.previous_state, fast)
    assert fast.tolist() == plain.tolist() and left.tobytes() == right.tobytes()

    def column(turn: int, column: Tensor) -> Tensor:
        points = best_path(grid, column[0].numpy() / step[turn], shrink[turn])
        assert points.tolist() == fast[turn].tolist()
        return torch.from_numpy(np.float32(0.5) * points * step[turn])[None]

    fed = torch.from_numpy(block.copy())[None]
    columnwise(column)(0, fed, torch.from_numpy(upper)[None])
    assert np.allclose(fed[0].numpy(), right, atol=1e-5)


@settings(max_examples=examples(60), deadline=None)
@given(
    data=st.data(),
    states=st.sampled_from([4, 8]),
    n=st.integers(1, 6),
    centre=st.sampled_from([0.0, 0.0, 40.0, MAX_INDEX - 1.0, MIN_INDEX + 1.0]),
)
def test_no_sequence_of_indices_near_the_input_is_better(
    data: st.DataObject, states: int, n: int, centre: float
) -> None:
    grid = TrellisGrid(states)
    x = (data.draw(sequences(n, 3.0)) + np.float32(centre)).astype(np.float32)
    shrink = data.draw(prices(n)) if not centre else np.zeros(n, np.float32)
    around = np.rint(x.astype(np.float64) / (1 + shrink)).astype(int)
    near = [np.unique(np.clip(np.arange(a - 2, a + 3), MIN_INDEX, MAX_INDEX)) for a in around]
    every = np.array(list(itertools.product(*near))).T.astype(np.int8)  # (n, sequences)
    found = indices(best_path(grid, x, shrink))[:, None]

    def cost(sequences: np.ndarray) -> np.ndarray:
        v = sequences + 0.5 * grid.half_offsets(sequences)
        return ((x[:, None].astype(np.float64) - v) ** 2 + shrink[:, None] * v**2).sum(0)

    assert cost(found)[0] <= cost(every).min() * (1 + 1e-5) + 1e-4


@given(x=st.floats(-300, 300, width=32), states=st.sampled_from(list(PARITY_CHECKS)))
def test_the_first_value_stands_at_a_whole_step(x: float, states: int) -> None:
    """The trellis starts in state 0; values beyond int8 are clamped."""
    grid = TrellisGrid(states)
    point = int(best_path(grid, np.array([x], np.float32), np.zeros(1, np.float32))[0])
    assert point % 2 == 0 and abs(point / 2 - min(max(x, MIN_INDEX), MAX_INDEX)) <= 0.5


@pytest.mark.parametrize("states", list(PARITY_CHECKS))
def test_points_stand_where_the_decoder_will_find_their_indices(states: int) -> None:
    x = (np.random.default_rng(0).standard_normal(300) * 50).astype(np.float32)
    grid = TrellisGrid(states)
    points = best_path(grid, x, np.zeros(300, np.float32))
    assert points.dtype == np.int16 and np.abs(points).max() > 200
    assert (points & 1).tolist() == grid.half_offsets(indices(points)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("states", list(PARITY_CHECKS))
def test_what_no_index_reaches_is_held_at_the_end(states: int) -> None:
    grid = TrellisGrid(states)
    x = np.array([0.2, 1e4, 3.1, -1e4, -700, 127.4, -127.4, 128, 5], np.float32)
    v = best_path(grid, x, np.zeros(len(x), np.float32)) / 2
    assert (np.abs(v - np.clip(x, MIN_INDEX, MAX_INDEX)) <= 1.5).all()


@pytest.mark.parametrize("states", TRELLISES)
def test_bits_have_a_price(states: int) -> None:
    x = (np.random.default_rng(0).standard_normal(2000) * 2).astype(np.float32)
    grid = TrellisGrid(states)
    free, dear = (best_path(grid, x, np.full(2000, price, np.float32)) / 2 for price in (0.0, 0.3))
    assert (dear**2).sum() < 0.9 * (free**2).sum() and ((x - dear) ** 2).sum() > ((x - free) ** 2).sum()


def rate_and_error(grid: TrellisGrid, x: np.ndarray) -> tuple[float, float]:
    """Bits per symbol, conditioned on z0, and mean squared error in squared steps, for columns in units of the step."""
    found = np.stack([indices(best_path(grid, column, np.zeros(len(column), np.float32))) for column in x.T], 1)
    halves = grid.half_offsets(found)
    rate = sum(entropy_bits(found[halves == half]) for half in range(2)) / x.size
    return rate, float(np.square(x - found - 0.5 * halves).mean())


@pytest.mark.parametrize(("states", "least"), [(4, 0.85), (8, 0.95), (64, 1.1), (256, 1.2)])
def test_gain_over_uniform_at_the_same_entropy(states: int, least: float) -> None:
    x = (np.random.default_rng(0).standard_normal((512, 128)) / 0.4194).astype(np.float32)
    uniform, coded = rate_and_error(TrellisGrid(1), x), rate_and_error(TrellisGrid(states), x)
    assert uniform[0] == pytest.approx(3.301, abs=0.02) and abs(coded[0] - uniform[0]) < 0.05
    gain = 10 * math.log10(uniform[1] / coded[1]) - 6.02 * (coded[0] - uniform[0])
    assert least <= gain < 1.53
