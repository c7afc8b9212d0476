"""What followed the last tokens before: exact counts of n-grams over a stream's past, and its longest match.

A trie holds all n-grams that were read. What followed the last k tokens are the children of one of its nodes, so the
expert of k tokens says count / total; one expert more says what followed the longest match. What each of them says
sums to one, as counts sum to their total. Keys of the hash table are compared in full: no n-gram is taken for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgolf.score.adapt.ngram_trie import TOKENS, Floats, Ints, NGramTrie, Successors, empty_successors, jit_reader

MAX_MATCH = 32  # tokens that a match is followed back; a longer one counts as this long
INITIAL_CAPACITY = 1 << 10  # tokens that room is made for at first
SUCCESSORS_PER_CHUNK = 1 << 17  # successors that are listed at a time


class ExpertPredictions(NamedTuple):
    """What E experts say after each of n tokens: those of the orders, and at last the one of the match.

    total (n, E): how often the context was there before, of the match its length; 0 where the expert is silent.
    kinds (n, E): different tokens that followed; `successors`, each of them.
    """

    total: Ints
    distinct: Ints
    successors: Successors

    def probability(self, tokens: NDArray[np.int64]) -> Floats:
        """What each expert gives to a token at each of the first k positions, (k,) -> (k, E)."""
        out = np.zeros((len(tokens), self.total.shape[1]))
        among = self.successors.select(self.successors.row < len(tokens))
        hit = among.select(among.token == tokens[among.row])
        out[hit.row, hit.expert] = hit.p
        return out

    def last(self) -> ExpertPredictions:
        """The last position alone."""
        n = len(self.total) - 1
        own = self.successors.select(self.successors.row == n)
        return ExpertPredictions(self.total[n:], self.distinct[n:], own._replace(row=own.row - n))


def concatenate_experts(predictions: Sequence[ExpertPredictions]) -> ExpertPredictions:
    """What several read the same tokens and say: all their experts, in this order."""
    first = np.cumsum([0, *(said.total.shape[1] for said in predictions)])
    lists = [
        said.successors._replace(expert=said.successors.expert + e) for said, e in zip(predictions, first, strict=False)
    ]
    columns: Any = map(np.concatenate, zip(*lists, strict=True))
    total, kinds = (
        np.concatenate(column, 1) for column in ([s.total for s in predictions], [s.distinct for s in predictions])
    )
    return ExpertPredictions(total, kinds, Successors(*columns))


class NGramModel:
    """Reads a stream and says what followed its last tokens before.

    orders: lengths of the contexts that are counted, rising from 1 or more; no match is shorter than that one.
    memory: tokens that are remembered; when they are as many, the older half is forgotten. So memory takes at most
    order + 1 nodes for each of them, and 40 to 60 bytes for each node.
    bos: where it stands, all is forgotten before it is read; None for never.
    """

    def __init__(self, vocab: int, orders: Sequence[int], history: int, bos: int | None = None) -> None:
        self.vocab, self.history, self.bos = vocab, history, bos
        self.orders = np.array(orders, np.int32)
        self.experts = len(orders) + 1
        self._read = jit_reader()
        self.trie = self._empty(min(INITIAL_CAPACITY, history))

    def read(self, tokens: NDArray[np.int64]) -> ExpertPredictions:
        """The tokens that come next, (n,); what is said after each of them knows nothing of those that follow it."""
        total, kinds = (np.zeros((len(tokens), self.experts), np.int32) for _ in range(2))
        starts = [] if self.bos is None else np.flatnonzero(tokens == self.bos).tolist()
        done, parts = 0, [empty_successors(0)]
        while done < len(tokens):
            if done in starts:
                self.trie = self._empty(min(INITIAL_CAPACITY, self.history))
            end = next((i for i in starts if i > done), len(tokens))
            self._grow_or_evict(end - done)
            stop = min(end, done + self.history - int(self.trie.state[TOKENS]))
            parts += self._read_from(tokens[:stop], done, total, kinds)
            done = stop
        columns: Any = map(np.concatenate, zip(*parts, strict=True))
        return ExpertPredictions(total, kinds, Successors(*columns))

    def _read_from(self, tokens: NDArray[np.int64], start: int, total: Ints, kinds: Ints) -> Iterator[Successors]:
        """Read from `start` on; successors come in chunks that have room for all that may follow a token."""
        while start < len(tokens):
            chunk = empty_successors(max(SUCCESSORS_PER_CHUNK, 2 * self.experts * self.vocab))
            words = self.vocab, MAX_MATCH, self.orders, total, kinds, chunk
            start, filled = self._read(self.trie, tokens, start, *words)
            yield chunk.select(slice(filled))

    def _grow_or_evict(self, tokens: int) -> None:
        """For so many more, up to the memory; a full one forgets its older half. What is kept is read anew."""
        held, room = int(self.trie.state[TOKENS]), len(self.trie.history)
        kept = held // 2 if held == self.history else held
        if kept == held and min(kept + tokens, self.history) <= room:
            return
        past = self.trie.history[held - kept : held].astype(np.int64)
        self.trie = self._empty(min(max(kept + tokens, 2 * kept, room), self.history))
        total, kinds = (np.zeros((kept, self.experts), np.int32) for _ in range(2))
        for _ in self._read_from(past, 0, total, kinds):
            pass

    def _empty(self, tokens: int) -> NGramTrie:
        """Room for so many tokens and all the nodes that they may need."""
        depth = int(self.orders[-1]) + 1
        nodes = 1 + depth * tokens
        places = 1 << (nodes + nodes // 2).bit_length()  # at most two thirds are taken
        path = np.full(depth, -1, np.int32)
        path[0] = 0
        token, counts, num_children, child, sibling, last_end = (np.zeros(nodes, np.int32) for _ in range(6))
        return NGramTrie(
            keys=np.full(places, -1, np.int64),
            nodes=np.zeros(places, np.int32),
            token=token,
            counts=counts,
            num_children=num_children,
            child=child,
            sibling=sibling,
            last_end=last_end,
            path=path,
            history=np.zeros(tokens, np.int32),
            state=np.array([1, 0, 0, 0], np.int64),
        )
