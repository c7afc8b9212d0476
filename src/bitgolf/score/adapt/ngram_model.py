"""What followed the last tokens before: exact counts of n-grams over a stream's past, and its longest match.

A trie holds all n-grams that were read. What followed the last k tokens are the children of one of its nodes, so the
expert of k tokens says count / total; one expert more says what followed the longest match. What each of them says
sums to one, as counts sum to their total. Keys of the hash table are compared in full: no n-gram is taken for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST = 32  # tokens that a match is followed back; a longer one counts as this long
SMALLEST = 1 << 10  # tokens that room is made for at first
CHUNK = 1 << 17  # successors that are listed at a time

Ints, Floats = NDArray[np.int32], NDArray[np.float64]
Read = Callable[..., tuple[int, int]]


class Trie(NamedTuple):
    """N-grams as nodes, 0 the empty one; a node's children are a chain, the youngest first, 0 behind the last.

    keys (H,) int64, nodes (H,): open addressing, parent * vocab + token -> node; -1 where free; H a power of two.
    token, times, kinds, child, sibling, ended (N,): of each node; kinds: how many children; ended: of an n-gram of full
    length, the position behind its last occurrence.  path (order + 1,): nodes of the last 0 … order tokens, -1 for none.
    past (M,): the tokens.  state (4,) int64: nodes, tokens, position that the match points at, tokens that it matches.
    """

    keys: NDArray[np.int64]
    nodes: Ints
    token: Ints
    times: Ints
    kinds: Ints
    child: Ints
    sibling: Ints
    ended: Ints
    path: Ints
    past: Ints
    state: NDArray[np.int64]


class Listed(NamedTuple):
    """Successors, (m,): said at `row` by `expert`, this token, with this probability."""

    row: Ints
    expert: Ints
    token: Ints
    p: Floats

    def where(self, index: Any) -> Listed:
        columns: Any = (column[index] for column in self)
        return Listed(*columns)


class Said(NamedTuple):
    """What E experts say after each of n tokens: those of the orders, and at last the one of the match.

    total (n, E): how often the context was there before, of the match its length; 0 where the expert is silent.
    kinds (n, E): different tokens that followed; `listed`, each of them.
    """

    total: Ints
    kinds: Ints
    listed: Listed

    def chance(self, tokens: NDArray[np.int64]) -> Floats:
        """What each expert gives to a token at each of the first k positions, (k,) -> (k, E)."""
        out = np.zeros((len(tokens), self.total.shape[1]))
        among = self.listed.where(self.listed.row < len(tokens))
        hit = among.where(among.token == tokens[among.row])
        out[hit.row, hit.expert] = hit.p
        return out

    def last(self) -> Said:
        """The last position alone."""
        n = len(self.total) - 1
        own = self.listed.where(self.listed.row == n)
        return Said(self.total[n:], self.kinds[n:], own._replace(row=own.row - n))


def beside(several: Sequence[Said]) -> Said:
    """What several read the same tokens and say: all their experts, in this order."""
    first = np.cumsum([0, *(said.total.shape[1] for said in several)])
    lists = [said.listed._replace(expert=said.listed.expert + e) for said, e in zip(several, first, strict=False)]
    columns: Any = map(np.concatenate, zip(*lists, strict=True))
    total, kinds = (np.concatenate(column, 1) for column in ([s.total for s in several], [s.kinds for s in several]))
    return Said(total, kinds, Listed(*columns))


def room_for(successors: int) -> Listed:
    row, expert, token = (np.empty(successors, np.int32) for _ in range(3))
    return Listed(row, expert, token, np.empty(successors))


def reader(jit: Callable[[Any], Any]) -> Read:
    """The loop over tokens, with all that it calls passed through `jit`; the identity makes its plain twin."""

    @jit
    def place(trie: Trie, key: int) -> int:
        """Where a key stands, or else the free place for it."""
        mask = len(trie.keys) - 1
        at = (key * 0x9E3779B97F4A7C1 >> 20) & mask
        while trie.keys[at] != -1 and trie.keys[at] != key:
            at = (at + 1) & mask
        return at

    @jit
    def follow(trie: Trie, parent: int, token: int, vocab: int) -> int:
        """The node of an n-gram and one token more, counted; made where there is none."""
        key = parent * vocab + token
        at = place(trie, key)
        if trie.keys[at] == -1:
            node = int(trie.state[0])
            trie.state[0] += 1
            trie.keys[at], trie.nodes[at] = key, node
            trie.token[node], trie.sibling[node] = token, trie.child[parent]
            trie.child[parent] = node
            trie.kinds[parent] += 1
        node = int(trie.nodes[at])
        trie.times[node] += 1
        return node

    @jit
    def match(trie: Trie, longest: int) -> None:
        """Go on with a match that was right; else with the last place where the longest n-gram stood."""
        end, node = int(trie.state[1]), trie.path[-1]
        before = trie.ended[node] if node >= 0 else 0
        if trie.state[3] > 0 and trie.past[trie.state[2]] == trie.past[end - 1]:
            trie.state[2] += 1
            trie.state[3] = min(trie.state[3] + 1, longest)
        else:
            n = 0
            while n < min(before, longest) and trie.past[before - 1 - n] == trie.past[end - 1 - n]:
                n += 1
            trie.state[2], trie.state[3] = before, n
        if node >= 0:
            trie.ended[node] = end

    @jit
    def push(trie: Trie, token: int, vocab: int, longest: int) -> None:
        for k in range(len(trie.path) - 1, -1, -1):
            if trie.path[k] >= 0:
                node = follow(trie, int(trie.path[k]), token, vocab)
                if k + 1 < len(trie.path):
                    trie.path[k + 1] = node
        trie.past[trie.state[1]] = token
        trie.state[1] += 1
        match(trie, longest)

    @jit
    def read(
        trie: Trie,
        tokens: NDArray[np.int64],
        start: int,
        vocab: int,
        longest: int,
        orders: Ints,
        total: Ints,
        kinds: Ints,
        out: Listed,
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
                total[t, e], kinds[t, e] = trie.times[node] - 1, trie.kinds[node]  # this time nothing followed yet
                child = trie.child[node]
                while child:
                    out.row[filled], out.expert[filled], out.token[filled] = t, e, trie.token[child]
                    out.p[filled] = trie.times[child] / total[t, e]
                    filled, child = filled + 1, trie.sibling[child]
            if trie.state[3] > 0:
                total[t, experts], kinds[t, experts] = trie.state[3], 1
                out.row[filled], out.expert[filled] = t, experts
                out.token[filled], out.p[filled] = trie.past[trie.state[2]], 1.0
                filled += 1
        return len(tokens), filled

    return read


@cache
def compiled() -> Read:
    """`read` in machine code: made once for each process, in a few seconds."""
    import numba

    jit: Any = numba.njit(nogil=True, cache=False, fastmath=False)
    return reader(jit)


class NGrams:
    """Reads a stream and says what followed its last tokens before.

    orders: lengths of the contexts that are counted, rising from 1 or more; no match is shorter than that one.
    memory: tokens that are remembered; when they are as many, the older half is forgotten. So memory takes at most
    order + 1 nodes for each of them, and 40 to 60 bytes for each node.
    bos: where it stands, all is forgotten before it is read; None for never.
    """

    def __init__(
        self, vocab: int, orders: Sequence[int], memory: int, bos: int | None = None, read: Read | None = None
    ) -> None:
        self.vocab, self.memory, self.bos = vocab, memory, bos
        self.orders = np.array(orders, np.int32)
        self.experts = len(orders) + 1
        self._read = read or compiled()
        self.trie = self._empty(min(SMALLEST, memory))

    def read(self, tokens: NDArray[np.int64]) -> Said:
        """The tokens that come next, (n,); what is said after each of them knows nothing of those that follow it."""
        total, kinds = (np.zeros((len(tokens), self.experts), np.int32) for _ in range(2))
        starts = [] if self.bos is None else np.flatnonzero(tokens == self.bos).tolist()
        done, parts = 0, [room_for(0)]
        while done < len(tokens):
            if done in starts:
                self.trie = self._empty(min(SMALLEST, self.memory))
            end = next((i for i in starts if i > done), len(tokens))
            self._make_room(end - done)
            stop = min(end, done + self.memory - int(self.trie.state[1]))
            parts += self._listed(tokens[:stop], done, total, kinds)
            done = stop
        columns: Any = map(np.concatenate, zip(*parts, strict=True))
        return Said(total, kinds, Listed(*columns))

    def _listed(self, tokens: NDArray[np.int64], start: int, total: Ints, kinds: Ints) -> Iterator[Listed]:
        """Read from `start` on; successors come in chunks that have room for all that may follow a token."""
        while start < len(tokens):
            chunk = room_for(max(CHUNK, 2 * self.experts * self.vocab))
            words = self.vocab, LONGEST, self.orders, total, kinds, chunk
            start, filled = self._read(self.trie, tokens, start, *words)
            yield chunk.where(slice(filled))

    def _make_room(self, tokens: int) -> None:
        """For so many more, up to the memory; a full one forgets its older half. What is kept is read anew."""
        held, room = int(self.trie.state[1]), len(self.trie.past)
        kept = held // 2 if held == self.memory else held
        if kept == held and min(kept + tokens, self.memory) <= room:
            return
        past = self.trie.past[held - kept : held].astype(np.int64)
        self.trie = self._empty(min(max(kept + tokens, 2 * kept, room), self.memory))
        total, kinds = (np.zeros((kept, self.experts), np.int32) for _ in range(2))
        for _ in self._listed(past, 0, total, kinds):
            pass

    def _empty(self, tokens: int) -> Trie:
        """Room for so many tokens and all the nodes that they may need."""
        depth = int(self.orders[-1]) + 1
        nodes = 1 + depth * tokens
        places = 1 << (nodes + nodes // 2).bit_length()  # at most two thirds are taken
        path = np.full(depth, -1, np.int32)
        path[0] = 0
        token, times, kinds, child, sibling, ended = (np.zeros(nodes, np.int32) for _ in range(6))
        return Trie(
            keys=np.full(places, -1, np.int64),
            nodes=np.zeros(places, np.int32),
            token=token,
            times=times,
            kinds=kinds,
            child=child,
            sibling=sibling,
            ended=ended,
            path=path,
            past=np.zeros(tokens, np.int32),
            state=np.array([1, 0, 0, 0], np.int64),
        )
