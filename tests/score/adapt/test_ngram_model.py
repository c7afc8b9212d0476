"""N-gram counts equal those of a dictionary implementation, for any stream, chunks and history."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitgolf.score.adapt import ngram_model
from bitgolf.score.adapt.ngram_model import MAX_MATCH, ExpertPredictions, NGramModel, concatenate_experts
from bitgolf.score.adapt.ngram_trie import read
from helpers.examples import examples

VOCAB = 9
STREAMS = st.lists(st.integers(0, 3) | st.integers(0, VOCAB - 1), min_size=1, max_size=120)
ORDERS = st.sets(st.integers(1, 6), min_size=1, max_size=4).map(lambda s: tuple(sorted(s)))


class Dictionaries:
    """A simple, slow reference implementation of `NGramModel`."""

    def __init__(self, orders: tuple[int, ...], memory: int) -> None:
        self.orders, self.memory, self.past = orders, memory, list[int]()
        self.pointer = self.length = 0

    def push(self, token: int) -> None:
        if len(self.past) == self.memory:
            young = self.past[len(self.past) - self.memory // 2 :]
            self.past, self.pointer, self.length = [], 0, 0
            for old in young:
                self.push(old)
        if self.length and self.past[self.pointer] == token:
            self.past.append(token)
            self.pointer, self.length = self.pointer + 1, min(self.length + 1, MAX_MATCH)
            return
        self.past.append(token)
        tail, self.length = self.past[-self.orders[-1] :], 0
        for end in range(len(self.past) - 1, len(tail) - 1, -1):
            if self.past[end - len(tail) : end] == tail and len(tail) == self.orders[-1]:
                self.pointer = end
                while (
                    self.length < min(end, MAX_MATCH)
                    and self.past[end - 1 - self.length] == self.past[-1 - self.length]
                ):
                    self.length += 1
                return

    def said(self) -> list[dict[int, float]]:
        found = [self._followed(k) for k in self.orders]
        return [*found, {self.past[self.pointer]: 1.0} if self.length else {}]

    def _followed(self, k: int) -> dict[int, float]:
        """Probabilities of the successors of the last k tokens, from a new index of all n-grams."""
        index = defaultdict[tuple[int, ...], Counter[int]](Counter)
        for i in range(len(self.past) - k):
            index[tuple(self.past[i : i + k])][self.past[i + k]] += 1
        counts = index[tuple(self.past[len(self.past) - k :])] if len(self.past) >= k else Counter[int]()
        return {y: c / counts.total() for y, c in counts.items()}


def distributions(said: ExpertPredictions) -> list[list[dict[int, float]]]:
    out = [[dict[int, float]() for _ in range(said.total.shape[1])] for _ in range(len(said.total))]
    for row, expert, token, p in zip(*said.successors, strict=True):
        assert token not in out[row][expert]
        out[row][expert][int(token)] = float(p)
    return out


@settings(max_examples=examples(25), deadline=None)
@given(STREAMS, ORDERS, st.integers(2, 150), st.lists(st.integers(0, 120), max_size=4))
@example([0] * 100, (1, 3), 1000, [])
@example([0, 1, 2, 3] * 25, (2, 3, 4), 64, [1, 2, 70])
def test_counts_are_those_of_dictionaries(
    stream: list[int], orders: tuple[int, ...], memory: int, cuts: list[int]
) -> None:
    """For any division of the stream into chunks, so predictions do not depend on later tokens."""
    counted, oracle = NGramModel(VOCAB, orders, memory), Dictionaries(orders, memory)
    for piece in np.split(np.array(stream), sorted(cuts)):
        said = counted.read(piece)
        for token, found, total, kinds in zip(piece, distributions(said), said.total, said.distinct, strict=True):
            oracle.push(int(token))
            for d, expected in zip(found, oracle.said(), strict=True):
                assert d == pytest.approx(expected, rel=1e-12)
            assert kinds.tolist() == [len(d) for d in found] and (total > 0).tolist() == [bool(d) for d in found]
            assert all(sum(d.values()) == pytest.approx(1, abs=1e-12) for d in found if d)
            assert total[-1] == oracle.length


@settings(max_examples=examples(20), deadline=None)
@given(STREAMS, ORDERS, st.integers(2, 80))
def test_the_plain_twin_says_the_same(stream: list[int], orders: tuple[int, ...], memory: int) -> None:
    plain, fast = NGramModel(VOCAB, orders, memory), NGramModel(VOCAB, orders, memory)
    plain._read = read
    a, b = plain.read(np.array(stream)), fast.read(np.array(stream))
    for left, right in zip((a.total, a.distinct, *a.successors), (b.total, b.distinct, *b.successors), strict=True):
        assert (left == right).all()
    for left, right in zip(plain.trie, fast.trie, strict=True):
        assert (left == right).all()


def test_room_grows_and_full_chunks_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.random.default_rng(0).integers(0, VOCAB, 5000)
    whole = NGramModel(VOCAB, (1, 2), 10_000).read(stream)
    monkeypatch.setattr(ngram_model, "SUCCESSORS_PER_CHUNK", 1)
    monkeypatch.setattr(ngram_model, "INITIAL_CAPACITY", 2)
    counted = NGramModel(VOCAB, (1, 2), 10_000)
    pieces = [counted.read(piece) for piece in np.split(stream, [1, 2, 3, 1500, 1501])]
    assert (np.concatenate([p.total for p in pieces]) == whole.total).all()
    assert (np.concatenate([p.successors.p for p in pieces]) == whole.successors.p).all()
    assert whole.total[-1, 0] > 400


def test_a_large_vocabulary_takes_no_n_gram_for_another() -> None:
    """Two orders and 40,000 distinct tokens: in the second half, each context has occurred exactly once before."""
    vocab = 1 << 16
    half = np.random.default_rng(1).permutation(vocab)[:40_000]
    said = NGramModel(vocab, (1, 2), 1 << 20).read(np.concatenate([half, half]))
    assert not said.total[:40_000].any()
    second = said.successors.select(said.successors.row >= 40_001)
    assert (second.token == half[(second.row + 1) % 40_000]).all() and (second.p == 1).all()
    assert len(second.row) == 3 * 39_999 - (len(half) - len(np.unique(half)))


def test_what_a_token_was_given() -> None:
    said = NGramModel(VOCAB, (1,), 100).read(np.array([5, 6, 5, 7, 5, 6]))
    assert said.probability(np.array([0, 0, 6, 0, 7])).tolist() == [[0, 0], [0, 0], [1, 1], [0, 0], [0.5, 1]]
    assert said.last().probability(np.array([5])).tolist() == [[1, 1]]
    assert said.last().probability(np.array([7])).tolist() == [[0, 0]]


@settings(max_examples=examples(20), deadline=None)
@given(STREAMS, st.lists(st.integers(0, 120), max_size=4))
def test_documents_are_forgotten_where_the_next_begins(stream: list[int], cuts: list[int]) -> None:
    bos, tokens = 0, np.array(stream)
    counted = NGramModel(VOCAB, (1, 2), 40, bos=bos)
    found = [d for piece in np.split(tokens, sorted(cuts)) for d in distributions(counted.read(piece))]
    starts = sorted({0, len(tokens), *np.flatnonzero(tokens == bos).tolist()})
    anew = [NGramModel(VOCAB, (1, 2), 40).read(tokens[a:b]) for a, b in pairwise(starts)]
    assert found == [d for said in anew for d in distributions(said)]


def test_several_speak_side_by_side() -> None:
    tokens = np.random.default_rng(2).integers(0, 4, 60)
    one, two = NGramModel(VOCAB, (1, 2), 100).read(tokens), NGramModel(VOCAB, (2,), 30).read(tokens)
    both = concatenate_experts([one, two])
    assert distributions(both) == [a + b for a, b in zip(distributions(one), distributions(two), strict=True)]
    assert (both.total == np.concatenate([one.total, two.total], 1)).all() and both.distinct.shape == (60, 5)
    assert (
        both.probability(tokens[1:]) == np.concatenate([one.probability(tokens[1:]), two.probability(tokens[1:])], 1)
    ).all()
