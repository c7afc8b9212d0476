"""Tests of data orders: which windows each visits and in which order, and the properties common to all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.data.batches import (
    BatchLoader,
    CoprimeStride,
    DataOrder,
    PackedDocuments,
    SequentialOrder,
    ShuffledDocuments,
    ShuffledShardWindows,
    ShuffledWindows,
)
from bitgolf.data.coprime_stride import coprime
from bitgolf.data.shards import TokenStream, write_shard
from bitgolf.errors import BitgolfError, RecipeError
from helpers.examples import examples

Counting = Callable[..., TokenStream]
ORDERS = [
    SequentialOrder(),
    PackedDocuments(),
    ShuffledWindows(),
    ShuffledShardWindows(),
    CoprimeStride(min_shards=2, max_shards=4, growth_steps=5),
]
WITHIN_FILES = [PackedDocuments(), ShuffledShardWindows(), CoprimeStride(min_shards=2, max_shards=4, growth_steps=5)]


def batches(stream: TokenStream, order: DataOrder, *, rows: int = 4, length: int = 5, seed: int = 0) -> BatchLoader:
    return BatchLoader(stream, rows=rows, length=length, order=order, seed=seed)


def shards(folder: Path, *contents: list[int]) -> TokenStream:
    for i, ids in enumerate(contents):
        write_shard(folder / f"train_{i:06d}.bin", np.array(ids))
    return TokenStream(sorted(folder.iterdir()))


def documents_of(draw: np.random.Generator, count: int) -> list[list[int]]:
    """Documents of different lengths; the token after BOS identifies the document, the others count up from it."""
    return [[1, *range(100 * i + 100, 100 * i + 100 + int(n))] for i, n in enumerate(draw.integers(1, 40, count))]


# ---- all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: type(o).__name__)
def test_it_is_a_function_of_seed_and_step_and_the_ranks_share_it(counting: Counting, order: DataOrder) -> None:
    stream = counting(300, 70, 200)
    whole = [batches(stream, order, rows=6, seed=3).load_batch(step) for step in range(12)]
    source = batches(stream, order, rows=6, seed=3)
    for step in (11, 0, 7):
        assert (whole[step].targets == (whole[step].inputs + 1) % 570).all()
        for world_size in (1, 2, 3):
            shares = [source.load_batch(step, rank, world_size).inputs for rank in range(world_size)]
            assert np.concatenate(shares).tolist() == whole[step].inputs.tolist()
    other = [batches(stream, order, rows=6, seed=4).load_batch(step).inputs.tolist() for step in range(3)]
    same = other == [whole[step].inputs.tolist() for step in range(3)]
    assert same == isinstance(order, SequentialOrder | PackedDocuments)


@pytest.mark.parametrize("order", WITHIN_FILES, ids=lambda o: type(o).__name__)
@settings(max_examples=examples(30), deadline=None)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4), step=st.integers(0, 30), seed=st.integers(0, 5))
def test_no_row_crosses_a_file(counting: Counting, order: DataOrder, lengths: list[int], step: int, seed: int) -> None:
    stream = counting(21, *lengths)
    inputs, targets = batches(stream, order, seed=seed).load_batch(step)
    ends = np.cumsum([21, *lengths])
    assert (np.searchsorted(ends, inputs[:, 0], "right") == np.searchsorted(ends, targets[:, -1], "right")).all()
    assert (targets == inputs + 1).all()


@pytest.mark.parametrize("order", WITHIN_FILES, ids=lambda o: type(o).__name__)
def test_files_too_short_for_a_row_are_an_error_when_there_is_no_other(counting: Counting, order: DataOrder) -> None:
    with pytest.raises(BitgolfError, match=r"no shard has [\d,]+ tokens") as error:
        batches(counting(5, 5, 5), order)
    assert "ShuffledWindows" in error.value.hint


# ---- shuffled sequences -------------------------------------------------------------------------------------------


@settings(max_examples=examples(40), deadline=None)
@given(lengths=st.lists(st.integers(6, 70), min_size=1, max_size=4), seed=st.integers(0, 50))
def test_an_epoch_holds_each_window_of_each_file_once(counting: Counting, lengths: list[int], seed: int) -> None:
    """So no token is an input twice in an epoch; the offset of the first window differs between epochs."""
    stream = counting(*lengths)
    source = batches(stream, ShuffledShardWindows(), rows=1, seed=seed)
    rest = iter(range(10**6))
    for _ in range(3):
        expected: dict[int, int | None] = dict.fromkeys(range(len(lengths)))
        seen: set[int] = set()
        ends = np.cumsum(lengths)
        while None in expected.values() or len(seen) < 5 * sum(v or 0 for v in expected.values()):
            row = source.load_batch(next(rest)).inputs[0].tolist()
            file = int(np.searchsorted(ends, row[0], "right"))
            begin = int(ends[file]) - lengths[file]
            phase = (row[0] - begin) % 5
            windows = (lengths[file] - 1 - phase) // 5
            assert expected[file] in (None, windows)
            assert not seen & set(row)
            expected[file], seen = windows, seen | set(row)


def test_files_are_visited_in_proportion_to_their_windows_left(counting: Counting) -> None:
    """The probability that the first row comes from the small file is its fraction of the windows: 1/4."""
    stream = counting(301, 101)
    first = [
        int(batches(stream, ShuffledShardWindows(), seed=seed).load_batch(0).inputs[0, 0] > 300) for seed in range(600)
    ]
    assert abs(np.mean(first) - 0.25) < 0.06
    pairs = [
        batches(stream, ShuffledShardWindows(), seed=seed).load_batch(0).inputs[:2, 0] > 300 for seed in range(600)
    ]
    assert abs(np.mean([a and b for a, b in pairs]) - 0.0625) < 0.03
    phases = {
        int(batches(stream, ShuffledShardWindows(), seed=seed).load_batch(0).inputs[0, 0]) % 5 for seed in range(60)
    }
    assert phases == set(range(5))


# ---- coprime stride ----------------------------------------------------------------------------------------------


@settings(max_examples=examples(60), deadline=None)
@given(n=st.integers(1, 400), seed=st.integers(0, 9))
def test_a_coprime_stride_visits_every_block(n: int, seed: int) -> None:
    stride = coprime(n, np.random.default_rng(seed))
    assert math.gcd(stride, n) == 1 and 1 <= stride <= n
    assert sorted(i * stride % n for i in range(n)) == list(range(n))


def test_a_cycle_covers_each_block_of_a_shard_once(counting: Counting) -> None:
    stream = counting(123)
    source = batches(stream, CoprimeStride(), rows=1, length=4, seed=2)
    starts = [int(source.load_batch(step).inputs[0, 0]) for step in range(150)]
    first = 0
    strides = set()
    while first < 90:
        phase = starts[first] % 4
        windows = (123 - 1 - phase) // 4
        cycle = starts[first : first + windows]
        assert sorted(cycle) == list(range(phase, phase + 4 * windows, 4))
        jumps = {(b - a) // 4 % windows for a, b in pairwise(cycle)}
        assert len(jumps) == 1
        strides |= jumps
        first += windows
    assert len(strides) > 1


def test_a_batch_mixes_a_number_of_shards_that_grows(counting: Counting) -> None:
    stream = counting(*[2000] * 12)
    source = batches(stream, CoprimeStride(min_shards=3, max_shards=9, growth_steps=10), rows=24, length=4)
    mixes = [len(set((source.load_batch(step).inputs[:, 0] // 2000).tolist())) for step in range(14)]
    assert mixes == [round(3 + min(1, step / 10) * 6) for step in range(14)]
    few = batches(stream, CoprimeStride(), rows=5, length=4)
    assert {len(set((few.load_batch(step).inputs[:, 0] // 2000).tolist())) for step in range(9)} == {5}


@pytest.mark.parametrize(("grow", "power"), [(10**9, 0.9), (1, 0.5)])
def test_shards_are_drawn_by_a_power_of_what_is_left(counting: Counting, grow: int, power: float) -> None:
    """Step 1, at which the exponent has its first or its last value: one of two shards is drawn."""
    stream = counting(4005, 405)
    large = 0
    for seed in range(500):
        source = batches(
            stream, CoprimeStride(min_shards=1, max_shards=1, growth_steps=grow), rows=1, length=4, seed=seed
        )
        large += int(source.load_batch(1).inputs[0, 0]) < 4005
    assert abs(large / 500 - 1000**power / (1000**power + 100**power)) < 0.05


def test_a_mix_that_is_none_is_refused() -> None:
    for wrong in ({"min_shards": 0}, {"min_shards": 9, "max_shards": 8}, {"growth_steps": 0}):
        with pytest.raises(RecipeError, match="min_shards must be 1 to max_shards"):
            CoprimeStride(**wrong)


# ---- shuffled documents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[], [150], [37, 38, 200, 201]])
def test_documents_come_whole_in_random_order_each_once_an_epoch(tmp_path: Path, cuts: list[int]) -> None:
    """Including documents that continue in the next file."""
    documents = documents_of(np.random.default_rng(0), 20)
    text = [token for document in documents for token in document]
    stream = shards(tmp_path, *[part.tolist() for part in np.split(np.array(text), cuts)])
    source = batches(stream, ShuffledDocuments(), rows=1, length=7, seed=1)
    rows = [source.load_batch(step) for step in range(3 * len(text) // 7 + 1)]
    visited = np.concatenate([row.inputs[0] for row in rows])[: 3 * len(text)]
    assert np.concatenate([row.targets[0] for row in rows])[: len(visited) - 1].tolist() == visited[1:].tolist()
    orders = []
    for epoch in np.split(visited, 3):
        found = [tuple(d.tolist()) for d in np.split(epoch, np.flatnonzero(epoch == 1)[1:])]
        assert sorted(found) == sorted(map(tuple, documents))
        orders.append(tuple(found))
    assert len({*orders, tuple(map(tuple, documents))}) == 4


def test_files_come_in_random_order_and_are_searched_when_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = shards(tmp_path, *[[1, 10 * i + 10, 10 * i + 11] * 4 for i in range(8)])
    searched: list[int] = []
    original = TokenStream.document_starts_in
    monkeypatch.setattr(
        TokenStream, "document_starts_in", lambda self, shard, bos: searched.append(shard) or original(self, shard, bos)
    )
    source = batches(stream, ShuffledDocuments(), rows=1, length=11)
    files = []
    for step in range(8):
        files.append(int(source.load_batch(step).inputs[0].max()) // 10 - 1)
        assert len(searched) <= step + 2
    assert len(Counter(searched)) == 8 and searched != sorted(searched)


def test_what_precedes_the_first_document_is_left_out(tmp_path: Path) -> None:
    stream = shards(tmp_path, [5, 6], [7, 1, 20, 21, 22], [1, 30, 31])
    row = batches(stream, ShuffledDocuments(), rows=1, length=7).load_batch(0).inputs[0].tolist()
    assert row in ([1, 20, 21, 22, 1, 30, 31], [1, 30, 31, 1, 20, 21, 22])
    with pytest.raises(BitgolfError, match="no document start, BOS token 9"):
        BatchLoader(stream, rows=1, length=3, order=ShuffledDocuments(), seed=0, bos=9)


# ---- packed --------------------------------------------------------------------------------------------------------


def test_packed_rows_are_sequential_spans_and_tails_are_dropped(counting: Counting) -> None:
    """Steps of 2 x 5 inputs: 2 fit in the first shard, none in the second, 3 in the third, which needs 31 tokens."""
    source = batches(counting(29, 10, 31), PackedDocuments(), rows=2)
    inputs = [source.load_batch(step).inputs.ravel().tolist() for step in range(7)]
    starts = [0, 10, 39, 49, 59, 0, 10]
    assert inputs == [list(range(start, start + 10)) for start in starts]
    shorter = batches(counting(29, 10, 30), PackedDocuments(), rows=2)
    assert [int(shorter.load_batch(step).inputs[0, 0]) for step in range(5)] == [0, 10, 39, 49, 0]
