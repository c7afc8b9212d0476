"""Path globs: `*` matches within one segment of a dotted path, `**` any number of segments (`blocks.*.attn.**`).

A pattern is matched by following all places in it at once, as a finite automaton whose transitions are cached. The time
is linear in the length of the path. A backtracking regular expression takes exponential time for hostile patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from bitgolf.errors import RecipeError

MAX_LENGTH = 200
"""Longest glob, in characters."""
MAX_CACHED = 10_000
"""Largest number of cached transitions of one glob."""

_SEGMENTS, _ANY, _WITHIN = "**.", "**", "*"
_TOKEN = re.compile(r"\*\*\.|\*\*|.", re.DOTALL)
State = frozenset[int]


class Glob:
    """A compiled pattern. `**.` matches nothing, or anything that ends with a dot.

    Raises `RecipeError` if it is longer than `MAX_LENGTH`.
    """

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_LENGTH:
            message = f"a path pattern may have at most {MAX_LENGTH} characters, got {len(pattern):,}"
            raise RecipeError(message, where=f"{pattern[:60]}…")
        self._tokens: list[str] = [*_TOKEN.findall(pattern), ""]
        self._start = self._with_skips([0])
        self._cache = dict[tuple[State, str], State]()

    def matches(self, path: str) -> bool:
        """Whether the pattern matches the whole path."""
        state = self._start
        for character in path:
            following = self._cache.get((state, character))
            if following is None:
                following = self._step(state, character)
            state = following
        return 2 * len(self._tokens) - 2 in state

    def _step(self, state: State, character: str) -> State:
        following = self._with_skips(new for place in state for new in self._read(place, character))
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[state, character] = following
        return following

    def _read(self, place: int, character: str) -> Iterator[int]:
        """Places after a character. Place 2i is before token i, and 2i + 1 is within `**.`, where it must not end."""
        i = place // 2
        token = self._tokens[i]
        if token == _SEGMENTS:
            yield 2 * i + (character != ".")
        elif token == _ANY or (token == _WITHIN and character != "."):
            yield 2 * i
        elif token == character:
            yield 2 * i + 2

    def _with_skips(self, places: Iterator[int] | list[int]) -> State:
        """The places, and those after wildcards that match nothing more."""
        found = set[int]()
        for place in places:
            while place not in found:
                found.add(place)
                if place % 2 or self._tokens[place // 2] not in (_SEGMENTS, _ANY, _WITHIN):
                    break
                place += 2
        return frozenset(found)


@cache
def compile_glob(pattern: str) -> Glob:
    """Return the compiled pattern. Raises `RecipeError` if it is too long."""
    return Glob(pattern)
