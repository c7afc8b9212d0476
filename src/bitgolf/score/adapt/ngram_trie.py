"""A trie of all n-grams that were read, and the functions that read a token into it, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints, Floats = NDArray[np.int32], NDArray[np.float64]
ReadFunction = Callable[..., tuple[int, int]]
NODES, TOKENS, MATCH_AT, MATCH_LENGTH = range(4)
"""Indices of `NGramTrie.state`."""


class NGramTrie(NamedTuple):
    """N-grams as nodes, 0 the empty one; a node's children are a chain, the youngest first, 0 behind the last.

    keys (H,) int64, nodes (H,): open addressing, parent * vocab + token -> node; -1 where free; H a power of two.
    token, counts, num_children, child, sibling, last_end (N,): of each node; last_end: of an n-gram of full length, the
    position behind its last occurrence.  path (order + 1,): nodes of the last 0 … order tokens, -1 for none.
    history (M,): the tokens.  state (4,) int64: number of nodes, of tokens, position that the match points at, and number
    of tokens that it matches; numba cannot write to fields of a tuple, so they stand in an array.
    """

    keys: NDArray[np.int64]
    nodes: Ints
    token: Ints
    counts: Ints
    num_children: Ints
    child: Ints
    sibling: Ints
    last_end: Ints
    path: Ints
    history: Ints
    state: NDArray[np.int64]


class Successors(NamedTuple):
    """Tokens that may follow, (m,): at position `row`, `expert` predicts `token` with probability `p`."""

    row: Ints
    expert: Ints
    token: Ints
    p: Floats

    def select(self, index: Any) -> Successors:
        columns: Any = (column[index] for column in self)
        return Successors(*columns)


def empty_successors(successors: int) -> Successors:
    """Arrays for so many, not filled."""
    row, expert, token = (np.empty(successors, np.int32) for _ in range(3))
    return Successors(row, expert, token, np.empty(successors))


Jit = Callable[[Any], Any]
"""A decorator that compiles a function; the identity leaves it as plain Python."""


def make_find_slot(jit: Jit) -> Callable[..., int]:
    @jit
    def find_slot(trie: NGramTrie, key: int) -> int:
        """The index of a key in the hash table, or else the free index for it."""
        mask = len(trie.keys) - 1
        at = (key * 0x9E3779B97F4A7C1 >> 20) & mask
        while trie.keys[at] != -1 and trie.keys[at] != key:
            at = (at + 1) & mask
        return at

    return find_slot


def make_increment(jit: Jit, find_slot: Callable[..., int]) -> Callable[..., int]:
    @jit
    def increment(trie: NGramTrie, parent: int, token: int, vocab: int) -> int:
        """The node of an n-gram and one token more, counted; made if there is none."""
        key = parent * vocab + token
        at = find_slot(trie, key)
        if trie.keys[at] == -1:
            node = int(trie.state[NODES])
            trie.state[NODES] += 1
            trie.keys[at], trie.nodes[at] = key, node
            trie.token[node], trie.sibling[node] = token, trie.child[parent]
            trie.child[parent] = node
            trie.num_children[parent] += 1
        node = int(trie.nodes[at])
        trie.counts[node] += 1
        return node

    return increment


def make_match(jit: Jit) -> Callable[..., None]:
    @jit
    def match(trie: NGramTrie, longest: int) -> None:
        """Go on with a match that was right; else with the last place where the longest n-gram stood."""
        end, node = int(trie.state[TOKENS]), trie.path[-1]
        before = trie.last_end[node] if node >= 0 else 0
        if trie.state[MATCH_LENGTH] > 0 and trie.history[trie.state[MATCH_AT]] == trie.history[end - 1]:
            trie.state[MATCH_AT] += 1
            trie.state[MATCH_LENGTH] = min(trie.state[MATCH_LENGTH] + 1, longest)
        else:
            n = 0
            while n < min(before, longest) and trie.history[before - 1 - n] == trie.history[end - 1 - n]:
                n += 1
            trie.state[MATCH_AT], trie.state[MATCH_LENGTH] = before, n
        if node >= 0:
            trie.last_end[node] = end

    return match


def make_push(jit: Jit, increment: Callable[..., int], match: Callable[..., None]) -> Callable[..., None]:
    @jit
    def push(trie: NGramTrie, token: int, vocab: int, longest: int) -> None:
        """Count a token in all its contexts, remember it, and update the match."""
        for k in range(len(trie.path) - 1, -1, -1):
            if trie.path[k] >= 0:
                node = increment(trie, int(trie.path[k]), token, vocab)
                if k + 1 < len(trie.path):
                    trie.path[k + 1] = node
        trie.history[trie.state[TOKENS]] = token
        trie.state[TOKENS] += 1
        match(trie, longest)

    return push


def make_read(jit: Jit, push: Callable[..., None]) -> ReadFunction:
    @jit
    def read(
        trie: NGramTrie,
        tokens: NDArray[np.int64],
        start: int,
        vocab: int,
        longest: int,
        orders: Ints,
        total: Ints,
        kinds: Ints,
        out: Successors,
    ) -> tuple[int, int]:
        """Read from `start` on for as long as `out` has room: the position reached, the successors listed."""
        filled, experts = 0, len(orders)
        for t in range(start, len(tokens)):
            if filled + experts * vocab + 1 > len(out.row):
                return t, filled
            push(trie, int(tokens[t]), vocab, longest)
            for e in range(experts):
                node = trie.path[orders[e]]
                if node < 0 or trie.child[node] == 0:
                    continue
                total[t, e] = trie.counts[node] - 1  # this time nothing followed yet
                kinds[t, e] = trie.num_children[node]
                child = trie.child[node]
                while child:
                    out.row[filled], out.expert[filled], out.token[filled] = t, e, trie.token[child]
                    out.p[filled] = trie.counts[child] / total[t, e]
                    filled, child = filled + 1, trie.sibling[child]
            if trie.state[MATCH_LENGTH] > 0:
                total[t, experts], kinds[t, experts] = trie.state[MATCH_LENGTH], 1
                out.row[filled], out.expert[filled] = t, experts
                out.token[filled], out.p[filled] = trie.history[trie.state[MATCH_AT]], 1.0
                filled += 1
        return len(tokens), filled

    return read


def make_reader(jit: Jit) -> ReadFunction:
    """The loop over tokens and all that it calls, each function passed through `jit`."""
    increment = make_increment(jit, make_find_slot(jit))
    return make_read(jit, make_push(jit, increment, make_match(jit)))


@cache
def jit_reader() -> ReadFunction:
    """`read` in machine code: made once for each process, in a few seconds."""
    import numba

    jit: Any = numba.njit(nogil=True, cache=False, fastmath=False)
    return make_reader(jit)
