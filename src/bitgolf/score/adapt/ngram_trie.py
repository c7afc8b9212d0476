"""A trie of all n-grams that were read, and functions that add tokens to it, compiled by numba."""

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
    """A trie whose nodes are n-grams; node 0 is the empty one. The children of a node are a linked list, newest first.

    keys (H,) int64, nodes (H,): hash table with open addressing, from parent * vocab + token to the node; a free slot
    has the key -1; H is a power of two.
    token, counts, num_children (N,): of each node. child, sibling (N,): first child and next sibling, 0 for none.
    last_end (N,): for an n-gram of full length, the position after its last occurrence.
    path (order + 1,): the nodes of the last 0 … order tokens, -1 if there is none. history (M,): the tokens.
    state (4,) int64: number of nodes, number of tokens, position of the token that the match predicts, length of the
    match. This is an array because numba cannot assign to the fields of a tuple.
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
    """Predicted tokens, each array (m,): at position `row`, `expert` predicts `token` with probability `p`."""

    row: Ints
    expert: Ints
    token: Ints
    p: Floats

    def select(self, index: Any) -> Successors:
        """The elements at an index: a slice, a mask or an array of integers."""
        columns: Any = (column[index] for column in self)
        return Successors(*columns)


def empty_successors(successors: int) -> Successors:
    """Uninitialized arrays for this number of successors."""
    row, expert, token = (np.empty(successors, np.int32) for _ in range(3))
    return Successors(row, expert, token, np.empty(successors))


def find_slot(trie: NGramTrie, key: int) -> int:
    """The slot of a key in the hash table, or the free slot where it would be inserted."""
    mask = len(trie.keys) - 1
    at = (key * 0x9E3779B97F4A7C1 >> 20) & mask
    while trie.keys[at] != -1 and trie.keys[at] != key:
        at = (at + 1) & mask
    return at


def increment(trie: NGramTrie, parent: int, token: int, vocab: int) -> int:
    """Increment the count of the child of `parent` for `token`, creating it if needed. Returns its node."""
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


def match(trie: NGramTrie, longest: int) -> None:
    """Extend the match if it predicted the last token, else restart where the last n-gram occurred before."""
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


def push(trie: NGramTrie, token: int, vocab: int, longest: int) -> None:
    """Count a token in all its contexts, append it to the history, and update the match."""
    for k in range(len(trie.path) - 1, -1, -1):
        if trie.path[k] >= 0:
            node = increment(trie, int(trie.path[k]), token, vocab)
            if k + 1 < len(trie.path):
                trie.path[k + 1] = node
    trie.history[trie.state[TOKENS]] = token
    trie.state[TOKENS] += 1
    match(trie, longest)


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
    """Read tokens from `start` on while `out` has space. Returns the position reached and the successors added."""
    filled, experts = 0, len(orders)
    for t in range(start, len(tokens)):
        if filled + experts * vocab + 1 > len(out.row):
            return t, filled
        push(trie, int(tokens[t]), vocab, longest)
        for e in range(experts):
            node = trie.path[orders[e]]
            if node < 0 or trie.child[node] == 0:
                continue
            total[t, e] = trie.counts[node] - 1  # the present occurrence has no successor yet
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


@cache
def jit_reader() -> ReadFunction:
    """`read`, compiled by numba with the functions that it calls."""
    from bitgolf.runtime.machine_code import compile_functions

    return compile_functions(find_slot, increment, match, push, read)[-1]
