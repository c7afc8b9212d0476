"""Batches as a pure function of (seed, step): no state to save, none to lose, and the same rows for any number of ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitgolf.data.shards import Stream
from bitgolf.errors import BitgolfError, UsageError
from bitgolf.spec import register

Rows = npt.NDArray[np.int64]


class Order(ABC):
    """In which order windows of a stream are visited."""

    @abstractmethod
    def start(self, number: int, *, tokens: int, length: int, seed: int) -> int:
        """Where the window of that number (0, 1, ...) starts in a stream of so many tokens; it is `length` long."""


@register
class Sequential(Order):
    """One window after the other, over the end of the stream to its start: the challenge's baseline. No seed acts."""

    def __init__(self) -> None:
        pass

    def start(self, number: int, *, tokens: int, length: int, seed: int) -> int:
        return number * length % tokens


@register
class Shuffled(Order):
    """Each epoch another permutation of the stream's non-overlapping windows, from another random phase.

    The stream is taken as a ring, so an epoch has the same number of windows, tokens // length, whatever its phase; no token
    is an input twice in it. The idea is that of the challenge's shuffled loaders (PR #1394), over all shards at once.
    """

    def __init__(self) -> None:
        pass

    def start(self, number: int, *, tokens: int, length: int, seed: int) -> int:
        epoch, index = divmod(number, tokens // length)
        phase, permutation = _epoch(seed, epoch, tokens, tokens // length)
        return (phase + int(permutation[index]) * length) % tokens


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, tokens: int, windows: int) -> tuple[int, Rows]:
    random = np.random.Generator(np.random.PCG64((seed, epoch)))
    return int(random.integers(tokens)), random.permutation(windows)


class Batch(NamedTuple):
    """Inputs and targets, int64 [rows, length]; a target is the token after its input."""

    inputs: Rows
    targets: Rows


class Batches:
    """The batches of a run: `rows` windows of `length` inputs in each step, taken from `stream` in `order`.

    Raises `BitgolfError` for a stream that has no whole window.
    """

    def __init__(self, stream: Stream, *, rows: int, length: int, order: Order, seed: int) -> None:
        if rows < 1 or length < 1 or seed < 0:
            raise UsageError(f"rows ({rows}) and length ({length}) start at 1, the seed ({seed}) at 0")
        if len(stream) < length + 1:
            raise BitgolfError(
                f"the text has {len(stream):,} tokens, and one row takes {length + 1:,}",
                place=stream.place,
                mend="give more text, or shorten the rows",
            )
        self.stream, self.rows_per_step, self.length, self.order, self.seed = stream, rows, length, order, seed

    def tokens_before(self, step: int) -> int:
        """Targets of all steps before this one."""
        return step * self.rows_per_step * self.length

    def rows(self, step: int, first: int, count: int) -> Batch:
        """Rows first, ..., first + count - 1 of a step: what one rank, or one piece of an accumulated step, trains on."""
        number = step * self.rows_per_step + first
        windows = np.stack([self._window(number + i) for i in range(count)])
        return Batch(windows[:, :-1], windows[:, 1:])

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """A rank's share of a step, int64 [rows / world, length]; the shares in the order of the ranks are the whole step."""
        if self.rows_per_step % world:
            raise UsageError(
                f"{self.rows_per_step} rows cannot be shared by {world} ranks",
                mend=f"make the rows of a step a multiple of {world}",
            )
        share = self.rows_per_step // world
        return self.rows(step, rank * share, share)

    def _window(self, number: int) -> Rows:
        start = self.order.start(number, tokens=len(self.stream), length=self.length, seed=self.seed)
        return self.stream.window(start, self.length + 1)
