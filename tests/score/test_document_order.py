"""Document orders: every document once, and bits charged for the lengths if a decoder needs them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.pack.frequency_tables import read_leb128, write_leb128
from bitgolf.pack.range_coder import decode_plane_stream, encode_plane_stream
from bitgolf.runtime.device import Device
from bitgolf.score.document_order import (
    CorpusOrder,
    DocumentOrder,
    LongestFirstOrder,
    ShuffledOrder,
    parse_order,
)
from bitgolf.score.length_code import Lengths, bucket_of, encode_lengths, low_bits
from bitgolf.score.methods import SlidingScoring
from bitgolf.score.player import StaticPlayer
from bitgolf.score.referee import score
from bitgolf.score.text import TokenizedText
from helpers.examples import examples
from helpers.toy import VOCAB, built, toy_model

ORDERS = [CorpusOrder(), ShuffledOrder(seed=3), LongestFirstOrder()]
LENGTHS = st.lists(st.integers(1, 2**20) | st.integers(1, 2**62 - 1), max_size=60)


def text_of(lengths: list[int]) -> TokenizedText:
    """Documents with these numbers of targets, each BOS and random tokens."""
    draw = np.random.default_rng(0)
    pieces = [np.concatenate([[1], draw.integers(2, VOCAB, n - 1)]) for n in lengths]
    return TokenizedText(np.concatenate([*pieces, [1]]), 3 * sum(lengths))


def contents(text: TokenizedText) -> list[tuple[int, ...]]:
    return [tuple(text.tokens[start:stop].tolist()) for start, stop in text.documents()]


# ---- orders ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.sampled_from(ORDERS))
def test_documents_stay_whole(lengths: list[int], order: DocumentOrder) -> None:
    text = text_of(lengths)
    arranged, charged = order.apply(text)
    assert sorted(contents(arranged)) == sorted(contents(text))
    assert arranged.num_targets == text.num_targets and arranged.bytes == text.bytes and arranged.tokens[-1] == text.bos
    assert (charged > 0) == isinstance(order, LongestFirstOrder)


def test_the_longest_comes_first_and_equals_stay_in_corpus_order() -> None:
    text = text_of([3, 9, 3, 1, 9])
    own = contents(text)
    assert contents(LongestFirstOrder().apply(text)[0]) == [own[i] for i in (1, 4, 0, 2, 3)]
    assert contents(CorpusOrder().apply(text)[0]) == own


def test_a_shuffle_knows_the_seed_and_the_number_of_documents_alone() -> None:
    many, other = np.arange(1, 41), np.full(40, 7)
    first = list(ShuffledOrder(seed=1).permutation(many))
    assert first == list(ShuffledOrder(seed=1).permutation(other)) != list(ShuffledOrder(seed=2).permutation(many))
    assert first != sorted(first) == list(range(40))
    assert list(ShuffledOrder(seed=1).permutation(many[:6])) == [2, 4, 5, 0, 3, 1], "equal on every machine"


def test_a_text_that_is_cut_within_a_document_keeps_its_order() -> None:
    text = text_of([5, 6, 7])
    for cut in (text.head(9), text._replace(tokens=text.tokens[2:]), text._replace(tokens=text.tokens[:0])):
        assert CorpusOrder().apply(cut)[0] is cut
        with pytest.raises(BitgolfError, match="cut"):
            LongestFirstOrder().apply(cut)


def test_orders_by_name() -> None:
    assert parse_order(None, None) is None
    names = ("corpus", "shuffled", "longest")
    assert [spec().name for name in names if (spec := parse_order(name, None))] == list(names)
    shuffle = parse_order("shuffled", 5)
    assert shuffle and shuffle["seed"] == 5
    with pytest.raises(UsageError, match="no order 'shortest'"):
        parse_order("shortest", None)
    with pytest.raises(UsageError, match="seed"):
        parse_order("longest", 5)


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.sampled_from(ORDERS[1:]))
def test_isolated_documents_cost_what_they_cost_in_any_order(lengths: list[int], order: DocumentOrder) -> None:
    """The bits of each document and the total are the same in every order."""
    text, method = text_of(lengths), SlidingScoring(window=12, stride=5, isolated=True)
    player = StaticPlayer(built(toy_model()).double(), VOCAB, Device(torch.device("cpu"), torch.float32, "a test"))

    def costs(text: TokenizedText) -> dict[tuple[int, ...], float]:
        charges = np.zeros(text.num_targets)
        found = score(player, text, method, charges=charges)
        assert found.bits == pytest.approx(charges.sum(), rel=1e-12)
        spans = text.documents()
        return {own: charges[a:b].sum() for own, (a, b) in zip(contents(text), spans, strict=True)}

    assert costs(order.apply(text)[0]) == pytest.approx(costs(text), rel=1e-9)


# ---- the length code -----------------------------------------------------------------------------------------------


LAST_BUCKET = bucket_of((1 << 62) - 1)


def decode_lengths(data: bytes) -> Lengths:
    """Decode lengths. Raises `CorruptFileError` for any input that `encode_lengths` cannot have written."""
    size, at = read_leb128(data, 0)
    coded, rest = data[at : at + size], data[at + size :]
    count = read_leb128(coded, 0)[0] if coded else 0
    buckets = decode_plane_stream(coded, 1, count)[0].tolist()
    if max(buckets, default=0) > LAST_BUCKET:
        raise CorruptFileError("these are no lengths of documents")
    bits = "".join(map(str, np.unpackbits(np.frombuffer(rest, np.uint8)).tolist()))
    lengths, at = list[int](), 0
    for bucket in buckets:
        low, start = low_bits(bucket), bucket if bucket < 4 else 4 + bucket % 4
        lengths.append((start << low) + int(bits[at : at + low] or "0", 2))
        at += low
    found = np.array(lengths, np.int64)
    if at > len(bits) or encode_lengths(found) != data:
        raise CorruptFileError("these are no lengths of documents")
    return found


@settings(deadline=None)
@given(LENGTHS)
def test_lengths_come_back(lengths: list[int]) -> None:
    assert decode_lengths(encode_lengths(np.array(lengths, np.int64))).tolist() == lengths


@settings(deadline=None)
@given(LENGTHS.filter(bool), st.data())
def test_what_is_damaged_is_refused_or_is_another_code(lengths: list[int], data: st.DataObject) -> None:
    coded = bytearray(encode_lengths(np.array(lengths, np.int64)))
    place = data.draw(st.integers(0, len(coded) - 1))
    if data.draw(st.booleans()):
        coded[place] ^= data.draw(st.integers(1, 255))
    else:
        del coded[place:]
    try:
        found = decode_lengths(bytes(coded))
    except BitgolfError:
        return
    assert encode_lengths(found) == coded


@pytest.mark.parametrize("bucket", [244, 255])
def test_lengths_beyond_all_documents_are_refused(bucket: int) -> None:
    coded = encode_plane_stream(np.array([[bucket]], np.uint8))
    with pytest.raises(CorruptFileError, match="no lengths"):
        decode_lengths(write_leb128(len(coded)) + coded + bytes(8))


def test_what_is_charged_is_the_length_of_the_code() -> None:
    text = text_of([3, 9, 4])
    assert LongestFirstOrder().apply(text)[1] == 8 * len(encode_lengths(np.array([3, 9, 4])))


def test_log_normal_lengths_cost_about_11_bits_each() -> None:
    """Mean 957, standard deviation of the logarithm 1. Their entropy is log2(sigma sqrt(2 pi e)) + mean log2."""
    mean = math.log(957) - 0.5
    lengths = np.exp(np.random.default_rng(0).normal(mean, 1.0, 5000)).astype(np.int64) + 1
    entropy = math.log2(math.sqrt(2 * math.pi * math.e)) + mean / math.log(2)
    assert entropy == pytest.approx(11.2, abs=0.1)
    assert entropy - 0.1 < 8 * len(encode_lengths(lengths)) / 5000 < entropy + 0.1
