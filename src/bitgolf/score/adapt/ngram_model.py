"""Next-token predictions from the exact n-gram counts of a stream, and from its longest match.

A trie contains all n-grams that were read. The successors of the last k tokens are the children of one node, and the
expert of order k predicts each with probability count / total. A further expert predicts the token that followed the
longest match. The probabilities of an expert sum to one, since counts sum to their total. Keys of the hash table are
compared in full, so n-grams do not collide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgolf.score.adapt.ngram_trie import TOKENS, Floats, Ints, NGramTrie, Successors, empty_successors, jit_reader

MAX_MATCH = 32  # maximum length of a match in tokens; longer ones are counted as this long
INITIAL_CAPACITY = 1 << 10  # tokens that the first trie has space for
SUCCESSORS_PER_CHUNK = 1 << 17  # minimum capacity of an array of successors


class ExpertPredictions(NamedTuple):
    """Predictions of E experts after each of n tokens: one expert for each order, and the longest match as the last.

    total (n, E): count of the context, for the match its length; 0 if the expert has no prediction.
    distinct (n, E): number of distinct successors. successors: every successor, with its probability.
    """

    total: Ints
    distinct: Ints
    successors: Successors

    def probability(self, tokens: NDArray[np.int64]) -> Floats:
        """The experts' probabilities (k, E) of the given tokens (k,) at the first k positions."""
        out = np.zeros((len(tokens), self.total.shape[1]))
        listed = self.successors.select(self.successors.row < len(tokens))
        hit = listed.select(listed.token == tokens[listed.row])
        out[hit.row, hit.expert] = hit.p
        return out

    def last(self) -> ExpertPredictions:
        """The predictions at the last position only."""
        n = len(self.total) - 1
        own = self.successors.select(self.successors.row == n)
        return ExpertPredictions(self.total[n:], self.distinct[n:], own._replace(row=own.row - n))


def concatenate_experts(predictions: Sequence[ExpertPredictions]) -> ExpertPredictions:
    """Combine predictions for the same tokens: the experts of all of them, in order."""
    first = np.cumsum([0, *(p.total.shape[1] for p in predictions)])
    lists = [
        p.successors._replace(expert=p.successors.expert + offset)
        for p, offset in zip(predictions, first, strict=False)
    ]
    columns: Any = map(np.concatenate, zip(*lists, strict=True))
    total, distinct = (
        np.concatenate(column, 1) for column in ([p.total for p in predictions], [p.distinct for p in predictions])
    )
    return ExpertPredictions(total, distinct, Successors(*columns))


class NGramModel:
    """Reads a stream and predicts the next token from earlier occurrences of the last tokens.

    orders: context lengths, increasing and at least 1. A match is at least as long as the largest order.
    history: maximum number of tokens kept; when it is reached, the older half is dropped. Memory is at most order + 1
    nodes per token, and 40 to 60 bytes per node.
    bos: token before which all history is dropped; None for never.
    """

    def __init__(self, vocab: int, orders: Sequence[int], history: int, bos: int | None = None) -> None:
        self.vocab, self.history, self.bos = vocab, history, bos
        self.orders = np.array(orders, np.int32)
        self.experts = len(orders) + 1
        self._read = jit_reader()
        self.trie = self._empty(min(INITIAL_CAPACITY, history))

    def read(self, tokens: NDArray[np.int64]) -> ExpertPredictions:
        """Read the next tokens (n,). The predictions after each token depend only on it and on earlier tokens."""
        total, distinct = (np.zeros((len(tokens), self.experts), np.int32) for _ in range(2))
        starts = [] if self.bos is None else np.flatnonzero(tokens == self.bos).tolist()
        done, parts = 0, [empty_successors(0)]
        while done < len(tokens):
            if done in starts:
                self.trie = self._empty(min(INITIAL_CAPACITY, self.history))
            end = next((i for i in starts if i > done), len(tokens))
            self._grow_or_evict(end - done)
            stop = min(end, done + self.history - int(self.trie.state[TOKENS]))
            parts += self._read_from(tokens[:stop], done, total, distinct)
            done = stop
        columns: Any = map(np.concatenate, zip(*parts, strict=True))
        return ExpertPredictions(total, distinct, Successors(*columns))

    def _read_from(self, tokens: NDArray[np.int64], start: int, total: Ints, distinct: Ints) -> Iterator[Successors]:
        """Read tokens from `start` on. Yields chunks of successors, each large enough for at least one token."""
        while start < len(tokens):
            chunk = empty_successors(max(SUCCESSORS_PER_CHUNK, 2 * self.experts * self.vocab))
            arguments = self.vocab, MAX_MATCH, self.orders, total, distinct, chunk
            start, filled = self._read(self.trie, tokens, start, *arguments)
            yield chunk.select(slice(filled))

    def _grow_or_evict(self, tokens: int) -> None:
        """Make space for more tokens, up to `history`. If the history is full, its older half is dropped.

        The tokens that are kept are read again into a new trie.
        """
        held, capacity = int(self.trie.state[TOKENS]), len(self.trie.history)
        kept = held // 2 if held == self.history else held
        if kept == held and min(kept + tokens, self.history) <= capacity:
            return
        past = self.trie.history[held - kept : held].astype(np.int64)
        self.trie = self._empty(min(max(kept + tokens, 2 * kept, capacity), self.history))
        total, distinct = (np.zeros((kept, self.experts), np.int32) for _ in range(2))
        for _ in self._read_from(past, 0, total, distinct):
            pass

    def _empty(self, tokens: int) -> NGramTrie:
        """An empty trie with space for `tokens` tokens and all nodes that they may need."""
        depth = int(self.orders[-1]) + 1
        nodes = 1 + depth * tokens
        slots = 1 << (nodes + nodes // 2).bit_length()  # a load factor of at most 2 / 3
        path = np.full(depth, -1, np.int32)
        path[0] = 0
        token, counts, num_children, child, sibling, last_end = (np.zeros(nodes, np.int32) for _ in range(6))
        return NGramTrie(
            keys=np.full(slots, -1, np.int64),
            nodes=np.zeros(slots, np.int32),
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
