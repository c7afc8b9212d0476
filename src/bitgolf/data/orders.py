"""In which order a stream's windows are visited. A window is `length` inputs and one token more, the last one's target.

Every order is a pure function of (seed, number of the window), whatever the number of ranks: the ranks share the rows of
one global batch. The published loaders give each rank files of its own and a generator seeded by its rank; then a run
on 8 GPUs cannot be repeated on 1, and a restart needs the state of every rank. What they draw is the same otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bitgolf.config.registry import register
from bitgolf.data.shards import Positions, TokenStream
from bitgolf.errors import BitgolfError

WindowFunction = Callable[[int], Positions]


class ShardSpan(NamedTuple):
    """A shard's place in the stream."""

    begin: int
    tokens: int


class WindowSource(NamedTuple):
    """What is cut into windows: `rows` of them, of `length` inputs, make a step. Documents start with `bos`."""

    stream: TokenStream
    rows: int
    length: int
    seed: int
    bos: int

    def window(self, start: int) -> Positions:
        """The window that starts at a position of the stream, int64 [length + 1]."""
        return self.stream.window(start, self.length + 1)

    def generator(self, *key: int) -> np.random.Generator:
        """A generator for this key alone. Keys of one order have one length: (1,) and (1, 0) would be the same."""
        return np.random.Generator(np.random.PCG64((self.seed, *key)))

    def shard_spans(self, tokens: int) -> list[ShardSpan]:
        """The shards that hold so many inputs and the last one's target. Raises `BitgolfError` where none does."""
        found = [
            ShardSpan(*file)
            for file in zip(self.stream.shard_starts.tolist(), self.stream.shard_sizes.tolist(), strict=True)
        ]
        found = [file for file in found if file.tokens > tokens]
        if not found:
            raise BitgolfError(
                f"no shard has {tokens + 1:,} tokens, and this order never reads over a shard's end",
                where=self.stream.folder,
                hint=f"write larger shards, shorten the rows, or use the order {ShuffledWindows.__name__}",
            )
        return found

    def window_starts(self, file: ShardSpan, random: np.random.Generator) -> Positions:
        """Where a file's non-overlapping windows start, from a random phase, int64 [windows]; none crosses its end."""
        phase = int(random.integers(min(self.length, file.tokens - self.length)))
        windows = (file.tokens - 1 - phase) // self.length
        return file.begin + phase + self.length * np.arange(windows)


class VariableEpochs:
    """0, 1, 2, … in cycles of unlike sizes: a number -> (its cycle, its index there). Sizes are asked for when reached."""

    def __init__(self, size: Callable[[int], int]) -> None:
        self.size, self.ends = size, [0]

    def __call__(self, number: int) -> tuple[int, int]:
        while number >= self.ends[-1]:
            self.ends.append(self.ends[-1] + self.size(len(self.ends) - 1))
        cycle = bisect_right(self.ends, number) - 1
        return cycle, number - self.ends[cycle]


class DataOrder(ABC):
    """In which order windows of a stream are visited."""

    @abstractmethod
    def windows(self, source: WindowSource) -> WindowFunction:
        """The tokens of window 0, 1, …, int64 [length + 1]: a function of the source and the number alone."""


@register
class SequentialOrder(DataOrder):
    """One window after the other, over the end of the stream to its start: the challenge's baseline. No seed acts."""

    def windows(self, source: WindowSource) -> WindowFunction:
        return lambda number: source.window(number * source.length % len(source.stream))


@register
class PackedDocuments(DataOrder):
    """Documents packed for attention of variable length: rows are long sequential spans (Parameter Golf #1530).

    There a row is all that one rank reads in a step (98,304 tokens), and a core or mask keeps attention inside each
    document. A step's rows follow one another in one shard; a shard's tail that is shorter than a step is dropped.
    No seed acts. (Published rows are one token further apart: a row's last target is nobody's input there.)
    """

    def windows(self, source: WindowSource) -> WindowFunction:
        step = source.rows * source.length
        files = source.shard_spans(step)
        windows = [(file.tokens - 1) // step * source.rows for file in files]
        ends = np.cumsum(windows)

        def window(number: int) -> Positions:
            index = number % int(ends[-1])
            i = int(np.searchsorted(ends, index, side="right"))
            return source.window(files[i].begin + (index - int(ends[i]) + windows[i]) * source.length)

        return window


@register
class ShuffledWindows(DataOrder):
    """Each epoch another permutation of the stream's non-overlapping windows, from another random phase.

    The stream is taken as a ring, so an epoch has the same number of windows, tokens // length, whatever its phase; no token
    is an input twice in it. The idea is that of the challenge's shuffled loaders (PR #1394), over all shards at once.
    """

    def windows(self, source: WindowSource) -> WindowFunction:
        tokens, length = len(source.stream), source.length
        windows = tokens // length

        @lru_cache(maxsize=2)
        def epoch_cut(epoch: int) -> tuple[int, Positions]:
            random = source.generator(epoch)
            return int(random.integers(tokens)), random.permutation(windows)

        def window(number: int) -> Positions:
            epoch, index = divmod(number, windows)
            phase, permutation = epoch_cut(epoch)
            return source.window((phase + int(permutation[index]) * length) % tokens)

        return window


@register
class ShuffledShardWindows(DataOrder):
    """Each epoch a random phase for each file, and its windows in random order; none crosses a file (Parameter Golf #1394).

    Published: each row picks a file with probability in proportion to its windows left, then that file's next one in
    a random permutation. That is one random permutation of the windows of all files, which is what is drawn here.
    """

    def windows(self, source: WindowSource) -> WindowFunction:
        files = source.shard_spans(source.length)

        @lru_cache(maxsize=2)
        def starts(epoch: int) -> Positions:
            random = source.generator(epoch)
            return random.permutation(np.concatenate([source.window_starts(file, random) for file in files]))

        epochs = VariableEpochs(lambda epoch: len(starts(epoch)))

        def window(number: int) -> Positions:
            epoch, index = epochs(number)
            return source.window(int(starts(epoch)[index]))

        return window


@register
class ShuffledDocuments(DataOrder):
    """Documents in random order, end to end, cut into windows of `length` inputs (Parameter Golf #1512, branch).

    Each epoch the files come in random order, and within a file its documents do: those that start in it, whole, even
    where they run on into the next file. A file is searched for document starts when it is reached.
    What precedes the first document start of the stream is left out. Raises `BitgolfError` where no document starts.
    """

    def windows(self, source: WindowSource) -> WindowFunction:
        return _ShuffledDocumentStream(source)


class _ShuffledDocumentStream:
    """The endless text of all documents, epoch after epoch, and its windows."""

    def __init__(self, source: WindowSource) -> None:
        self.source = source
        stream = source.stream
        first = [stream.next_document_start(begin, source.bos) for begin in stream.shard_starts.tolist()]
        self.shard_boundaries: Positions = np.array(
            [*first, len(stream)]
        )  # the documents of file i: edges[i] … edges[i + 1]
        self.sizes = np.diff(self.shard_boundaries)
        self.tokens = int(self.sizes.sum())
        if not self.tokens:
            cause = f"no document starts: the token {source.bos} is nowhere"
            raise BitgolfError(cause, where=stream.folder, hint="use another order")
        self.files = lru_cache(maxsize=2)(self._files)
        self.documents = lru_cache(maxsize=2)(self._documents)

    def __call__(self, number: int) -> Positions:
        at, missing = number * self.source.length, self.source.length + 1
        pieces = []
        while missing:
            piece = self._piece(at, missing)
            pieces.append(piece)
            at, missing = at + len(piece), missing - len(piece)
        return np.concatenate(pieces)

    def _piece(self, at: int, most: int) -> Positions:
        """At most so many tokens of the endless text from a position on: to the end of a document."""
        epoch, offset = divmod(at, self.tokens)
        files, ends = self.files(epoch)
        i = int(np.searchsorted(ends, offset, side="right"))
        starts, ends = self.documents(epoch, int(files[i]), int(ends[i] - self.sizes[files[i]]))
        i = int(np.searchsorted(ends, offset, side="right"))
        left = int(ends[i]) - offset
        return self.source.stream.window(int(starts[i, 1]) - left, min(most, left))

    def _files(self, epoch: int) -> tuple[Positions, Positions]:
        """The files of an epoch in order, and where each ends in its text."""
        files = self.source.generator(epoch, 0).permutation(len(self.sizes))
        return files, np.cumsum(self.sizes[files])

    def _documents(self, epoch: int, file: int, begin: int) -> tuple[Positions, Positions]:
        """A file's documents in the epoch's order, [documents, (start, end)], and where each ends in the epoch's text."""
        starts = self.source.stream.document_starts_in(file, self.source.bos)
        spans = np.stack([starts, np.append(starts[1:], self.shard_boundaries[file + 1])], 1)
        spans = self.source.generator(epoch, 1 + file).permutation(spans)
        return spans, begin + np.cumsum(spans[:, 1] - spans[:, 0])
