"""A KV cache whose rows advance independently. The `contracts` tests check every model part with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitgolf.config.build_context import BuildContext
from bitgolf.config.edits import append
from bitgolf.config.spec import part
from bitgolf.errors import UsageError
from bitgolf.model.attention.attention import Attention
from bitgolf.model.attention.cores.sdpa import DocumentMask, SDPACore, SegmentMask, SlidingWindowMask
from bitgolf.model.attention.key_offset import KeyOffset
from bitgolf.model.attention.scalable_softmax import ScalableSoftmax
from bitgolf.model.block import Block
from bitgolf.model.decoding.context import DecodingContext, decode
from bitgolf.model.decoding.incremental import IncrementalDecoder
from bitgolf.model.decoding.kv_cache import NGRAM_LOOKBACK, KVCache
from bitgolf.model.lm import LM
from bitgolf.model.ngram_embedding import HashedNGramEmbedding
from bitgolf.model.smear import BlendSmear, RunningMeanSmear
from helpers.toy import VOCAB, built, toy_model

CPU = torch.device("cpu")
EVERY = [0, 1, 2, 3]
READINGS = [(EVERY, [7, 7, 7, 7]), ([1, 3], [5, 2]), (EVERY, [4, 0, 9, 1]), ([2], [14]), ([0, 3], [1, 20])]


def rich() -> LM:
    """A model with all parts that need more than keys and values from a decoding context."""
    spec = toy_model().edit(Attention, append(qk=part(ScalableSoftmax)))
    spec = spec.edit(Attention, append(qk=part(KeyOffset, unshifted_dims=4)))
    spec = spec.edit(SDPACore, append(masks=part(SlidingWindowMask, left=6))).edit(
        SDPACore, append(masks=part(SegmentMask, max_length=5))
    )
    spec = spec.edit(Block, append(pre_block=part(BlendSmear, mask_starts=False))).edit(
        Block, append(post_block=part(RunningMeanSmear))
    )
    return built(spec.edit("", append(post_embed=part(HashedNGramEmbedding, buckets=50, width=8, trigrams=True))))


def words(*shape: int, seed: int = 0) -> Tensor:
    """Random ids, some of them BOS."""
    ids = torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))
    return ids.masked_fill(ids < 6, 1)


@torch.no_grad()
@pytest.mark.parametrize("model", [built(toy_model()), rich()], ids=["toy", "rich"])
def test_rows_that_read_on_by_different_amounts_say_what_each_says_alone(model: LM) -> None:
    ids, whole = words(4, 30), model(words(4, 30))
    memory, done = KVCache(4, 30, CPU), torch.zeros(4, dtype=torch.int64)
    for rows, counts in READINGS:
        own, n = torch.tensor(rows), torch.tensor(counts)
        shown = torch.full((len(rows), max(counts)), 3)
        for i, row in enumerate(rows):
            shown[i, : counts[i]] = ids[row, done[row] : done[row] + counts[i]]
        hidden = decode(model, memory, shown, own if len(rows) < 4 else None, n)
        for i, row in enumerate(rows):
            expected = whole[row, done[row] : done[row] + counts[i]]
            assert torch.allclose(model.logits(hidden[i, : counts[i]]), expected, atol=1e-4), (rows, row)
        done[own] += n
        assert torch.equal(memory.lengths, done)


@torch.no_grad()
def test_what_pads_a_row_leaves_nothing_behind() -> None:
    """Different padding, and different values in unused slots of the cache, do not change later states."""
    model, said = rich(), []
    for filler in (2, 9):
        memory = KVCache(2, 20, CPU)
        ids, counts = words(2, 8), torch.tensor([8, 3])
        ids[1, 3:] = filler
        decode(model, memory, ids, counts=counts)
        for buffer in memory.buffers.values():
            assert not buffer[1, 3:].any(), "padding must not be stored"
            buffer[1, 3:] = filler
        memory.ids[1, 3:] = filler
        said.append(decode(model, memory, words(2, 4, seed=1)))
    assert torch.equal(*said)


@torch.no_grad()
def test_a_row_that_forgets_is_as_new_and_the_others_notice_nothing() -> None:
    model, ids = rich(), words(2, 16)
    memory = KVCache(2, 16, CPU)
    decode(model, memory, words(2, 9, seed=5))
    memory.reset(torch.tensor([1]))
    assert memory.lengths.tolist() == [9, 0]
    fresh = decode(model, memory, ids[1:, :7], torch.tensor([1]))
    assert torch.allclose(fresh, model.hidden(model.forward_context(ids[1:, :7])), atol=1e-5)
    both = torch.cat([words(2, 9, seed=5)[:1], ids[:1, :4]], 1)
    on = decode(model, memory, ids[:1, :4], torch.tensor([0]))
    assert torch.allclose(on, model.hidden(model.forward_context(both))[:, 9:], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("capacity", [8 + NGRAM_LOOKBACK, 9 + NGRAM_LOOKBACK, 40])
def test_sliding_is_the_same_however_often_slots_are_moved(capacity: int) -> None:
    """Rows of different lengths, a window of 8 and chunks of 3, with a large and a minimal capacity."""
    model, ids = rich(), words(2, 40)
    said = list[list[Tensor]]()
    for slots in (capacity, 100):
        memory, hidden = KVCache(2, slots, CPU), list[Tensor]()
        for i, counts in enumerate([[3, 3], [3, 1], [2, 3], *[[3, 3]] * 7]):
            n = torch.tensor(counts)
            memory.evict(torch.arange(2), n, 8)
            assert (memory.lengths - memory.oldest + n <= 8).all()
            piece = decode(model, memory, ids[:, 3 * i : 3 * i + 3], counts=n)
            hidden += [piece[row, :c] for row, c in enumerate(counts)]
        said.append(hidden)
        assert (memory.lengths + memory.offsets).tolist() == [29, 28]
        assert bool(memory.offsets.any()) == (slots < 29)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*said, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2])
def test_angles_are_exact_a_million_tokens_on(rows: int) -> None:
    """States depend on differences of positions only; float32 angles would have an error of 0.06 radians there."""
    model, ids, said = built(toy_model()), words(2, 24), list[Tensor]()
    for far in (0, 1_000_003):
        memory = KVCache(2, 24, CPU)
        memory.offsets += far * torch.tensor([1, rows])
        decode(model, memory, ids[:, :12])
        said.append(decode(model, memory, ids[:, 12:]))
    assert (said[0] - said[1]).abs().max() < 1e-5


def test_what_has_left_the_window_is_not_counted() -> None:
    """Scalable softmax scales queries by the log of the number of keys: 8 of 20 are cached, plus the token itself."""
    memory, scaling = KVCache(1, 30, CPU), ScalableSoftmax(BuildContext(vocab=VOCAB, heads=2), init=1.0)
    memory.lengths += 20
    memory.evict(torch.tensor([0]), torch.tensor([1]), 9)
    q = torch.ones(1, 1, 2, 4)
    assert torch.allclose(scaling(q, q, DecodingContext(words(1, 1), 1, memory))[0], q * math.log(9))


def test_lags_of_rows_side_by_side() -> None:
    memory = KVCache(2, 10, CPU)
    decode(built(toy_model()), memory, words(2, 4), counts=torch.tensor([4, 2]))
    context = DecodingContext(words(2, 2), 1, memory)
    assert context.positions.tolist() == [[4, 5], [2, 3]] and context.key_positions.shape == (2, 6)
    assert context.relative_positions.shape == (2, 1, 2, 6) and context.relative_positions[1, 0].tolist() == [
        [2, 1, 0, -1, -2, -3],
        [3, 2, 1, 0, -1, -2],
    ]
    assert context.document_ids.shape == (2, 2) and DocumentMask(BuildContext(vocab=VOCAB))(context).shape == (
        2,
        1,
        2,
        6,
    )


def test_a_context_that_does_not_fit_is_refused() -> None:
    reader = IncrementalDecoder(built(toy_model()), 2, window=5, stride=2)
    for n in (0, 6):
        with pytest.raises(UsageError, match=f"between 1 and 5 tokens .*, got {n}"):
            reader.prefill({1: torch.ones(n, dtype=torch.int64)})


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 3, 6])
def test_a_full_row_is_read_again_and_the_others_are_not(stride: int) -> None:
    model, ids = built(toy_model()), words(2, 6)
    reader = IncrementalDecoder(model, 2, window=6, stride=stride)
    reader.prefill({0: ids[0], 1: ids[1, :2]})
    kept = reader.logits.clone()
    reader.step(torch.tensor([7, -1]))
    assert reader.cache.lengths.tolist() == [7 - stride, 2]
    alone = model(torch.tensor([[*ids[0, stride:].tolist(), 7]]))[0, -1]
    assert (reader.logits[0] - alone).abs().max() < 1e-4 and torch.equal(reader.logits[1], kept[1])
    reader.step(torch.tensor([-1, -1]))
    assert reader.cache.lengths.tolist() == [7 - stride, 2]
