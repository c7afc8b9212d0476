"""Tests of batches: a function of (seed, step), equal for any number of ranks, with each token once per epoch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import Spec, part
from bitgolf.data.batches import BatchLoader, DataOrder, SequentialOrder, ShuffledWindows
from bitgolf.data.shards import TokenStream
from bitgolf.errors import BitgolfError, UsageError
from helpers.examples import examples

Counting = Callable[..., TokenStream]


def batches(stream: TokenStream, order: DataOrder, *, rows: int = 4, length: int = 5, seed: int = 0) -> BatchLoader:
    return BatchLoader(stream, rows=rows, length=length, order=order, seed=seed)


@pytest.mark.parametrize("order", [SequentialOrder(), ShuffledWindows()])
@settings(max_examples=examples(40), deadline=None)
@given(
    lengths=st.lists(st.integers(3, 40), min_size=2, max_size=4),
    length=st.integers(1, 5),
    step=st.integers(0, 50),
    seed=st.integers(0, 5),
)
def test_targets_are_the_tokens_after_their_inputs(
    counting: Counting, order: DataOrder, lengths: list[int], length: int, step: int, seed: int
) -> None:
    stream = counting(*lengths)
    inputs, targets = batches(stream, order, length=length, seed=seed).load_batch(step)
    assert inputs.shape == targets.shape == (4, length)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == (inputs + 1) % len(stream)).all()
    assert (inputs[:, 1:] == targets[:, :-1]).all()


@pytest.mark.parametrize("order", [SequentialOrder(), ShuffledWindows()])
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_ranks_share_the_same_rows_whatever_their_number(
    counting: Counting, order: DataOrder, world_size: int
) -> None:
    source = batches(counting(61, 40), order, rows=6)
    for step in (0, 1, 7):
        whole = source.load_batch(step)
        for k in range(2):
            assert (
                np.concatenate([source.load_batch(step, rank, world_size)[k] for rank in range(world_size)]).tolist()
                == whole[k].tolist()
            )
        assert source.load_rows(step, 2, 3).inputs.tolist() == whole.inputs[2:5].tolist()


@settings(max_examples=examples(60), deadline=None)
@given(tokens=st.integers(7, 120), length=st.integers(1, 6), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_in_an_epoch_no_token_is_an_input_twice(
    counting: Counting, tokens: int, length: int, seed: int, epoch: int
) -> None:
    windows = tokens // length
    source = batches(counting(tokens), ShuffledWindows(), rows=windows, length=length, seed=seed)
    seen = source.load_batch(epoch).inputs.ravel()
    assert len(set(seen.tolist())) == len(seen) == windows * length


def test_epochs_and_seeds_differ_and_repeat(counting: Counting) -> None:
    stream = counting(1000)
    first, again, other = (batches(stream, ShuffledWindows(), rows=100, length=10, seed=seed) for seed in (0, 0, 1))
    epochs = [first.load_batch(i).inputs for i in range(3)]
    assert [again.load_batch(i).inputs.tolist() for i in (2, 0, 1)] == [epochs[i].tolist() for i in (2, 0, 1)]
    assert epochs[0].tolist() != epochs[1].tolist() != other.load_batch(1).inputs.tolist()
    phases = {int(inputs[0, 0] % 10) for inputs in (first.load_batch(i).inputs for i in range(20))}
    assert len(phases) > 5


def test_sequential_batches_follow_the_stream_over_its_end(counting: Counting) -> None:
    source = batches(counting(10, 3), SequentialOrder(), rows=2, length=4, seed=9)
    inputs = np.concatenate([source.load_batch(step).inputs.ravel() for step in range(4)])
    assert inputs.tolist() == [i % 13 for i in range(32)]


def test_too_little_text_and_uneven_shares_are_errors_with_their_numbers(counting: Counting) -> None:
    assert batches(counting(6), ShuffledWindows(), length=5).load_batch(3).inputs.shape == (4, 5)
    with pytest.raises(BitgolfError, match="has 5 tokens, but one row needs 6") as error:
        batches(counting(5), ShuffledWindows(), length=5)
    assert error.value.hint
    with pytest.raises(UsageError, match="4 rows cannot be divided evenly among 3 ranks"):
        batches(counting(30), ShuffledWindows()).load_batch(0, 0, 3)
    for wrong in ({"rows": 0}, {"length": 0}, {"seed": -1}):
        with pytest.raises(UsageError, match="rows and length must be at least 1"):
            batches(counting(30), ShuffledWindows(), **wrong)


def test_an_order_is_a_part_of_a_recipe() -> None:
    class Holder:
        def __init__(self, *, order: Spec[DataOrder]) -> None:
            self.order = order

    assert isinstance(part(Holder, order=part(ShuffledWindows))().order(), ShuffledWindows)
