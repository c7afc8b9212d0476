"""Data orders: the order in which the windows of a token stream are visited.

A window is `length` inputs and one more token, the target of the last input. Every order is a pure function of (seed,
window number) and does not depend on the number of ranks, which divide the rows of a global batch among them.

In the published loaders each rank has its own files, and a generator seeded by its rank. A run on 8 GPUs can then not
be repeated on one, and a restart needs the state of every rank. Apart from that, the windows are drawn in the same way.
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
    """Position of a shard in the stream: its first token, and its number of tokens."""

    begin: int
    tokens: int


class WindowSource(NamedTuple):
    """The stream to take windows from. A step has `rows` windows of `length` inputs; documents start with `bos`."""

    stream: TokenStream
    rows: int
    length: int
    seed: int
    bos: int

    def window(self, start: int) -> Positions:
        """Return the window that starts at a position of the stream, int64 (length + 1,)."""
        return self.stream.window(start, self.length + 1)

    def generator(self, *key: int) -> np.random.Generator:
        """Return a random generator for the run's seed and this key.

        All keys of an order must have the same length, since (1,) and (1, 0) give the same generator.
        """
        return np.random.Generator(np.random.PCG64((self.seed, *key)))

    def shard_spans(self, tokens: int) -> list[ShardSpan]:
        """Return the shards with at least `tokens` inputs and the target of the last one.

        Raises `BitgolfError` if there is none.
        """
        found = [
            ShardSpan(*file)
            for file in zip(self.stream.shard_starts.tolist(), self.stream.shard_sizes.tolist(), strict=True)
        ]
        found = [file for file in found if file.tokens > tokens]
        if not found:
            raise BitgolfError(
                f"no shard has {tokens + 1:,} tokens, the minimum for an order that never reads across shards",
                where=self.stream.folder,
                hint=f"write larger shards, use shorter rows, or use the order {ShuffledWindows.__name__}",
            )
        return found

    def window_starts(self, file: ShardSpan, random: np.random.Generator) -> Positions:
        """Return the stream positions of a shard's non-overlapping windows, int64 (windows,).

        The first one starts at a random offset; none crosses the end of the shard.
        """
        phase = int(random.integers(min(self.length, file.tokens - self.length)))
        windows = (file.tokens - 1 - phase) // self.length
        return file.begin + phase + self.length * np.arange(windows)


class VariableEpochs:
    """Maps a window number to (epoch, index in the epoch), for epochs of different sizes.

    size(epoch): the number of windows of an epoch; it is called when the epoch is first reached.
    """

    def __init__(self, size: Callable[[int], int]) -> None:
        self.size, self.ends = size, [0]

    def __call__(self, number: int) -> tuple[int, int]:
        while number >= self.ends[-1]:
            self.ends.append(self.ends[-1] + self.size(len(self.ends) - 1))
        epoch = bisect_right(self.ends, number) - 1
        return epoch, number - self.ends[epoch]


class DataOrder(ABC):
    """The order in which the windows of a stream are visited."""

    @abstractmethod
    def windows(self, source: WindowSource) -> WindowFunction:
        """Return the function from a window number (0, 1, …) to the window's tokens, int64 (length + 1,).

        Its result depends on the source and the number only.
        """


@register
class SequentialOrder(DataOrder):
    """Consecutive windows of the repeated stream, as in the challenge's baseline. It uses no seed."""

    def windows(self, source: WindowSource) -> WindowFunction:
        return lambda number: source.window(number * source.length % len(source.stream))


@register
class PackedDocuments(DataOrder):
    """Consecutive long rows of packed documents, for variable-length attention (Parameter Golf #1530).

    In the source a row is all that a rank reads in a step (98,304 tokens); an attention core or mask separates the
    documents. The rows of a step are adjacent in one shard. The end of a shard is dropped if it is shorter than a step.
    The order uses no seed. (In the source rows are one token further apart: the last target of a row is never an
    input.)
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
    """In each epoch a random permutation of the stream's non-overlapping windows.

    The first window starts at a random offset in each epoch. The stream is treated as a ring, so all epochs have the
    same number of windows (`tokens // length`), and no token is an input twice in an epoch. This is the method of the
    challenge's shuffled loaders (Parameter Golf #1394), applied to all shards at once.
    """

    def windows(self, source: WindowSource) -> WindowFunction:
        tokens, length = len(source.stream), source.length
        windows = tokens // length

        @lru_cache(maxsize=2)
        def epoch_windows(epoch: int) -> tuple[int, Positions]:
            random = source.generator(epoch)
            return int(random.integers(tokens)), random.permutation(windows)

        def window(number: int) -> Positions:
            epoch, index = divmod(number, windows)
            phase, permutation = epoch_windows(epoch)
            return source.window((phase + int(permutation[index]) * length) % tokens)

        return window


@register
class ShuffledShardWindows(DataOrder):
    """In each epoch a random permutation of the windows of all shards; no window crosses the end of a shard.

    The windows of a shard start at a random offset in each epoch. Source: Parameter Golf #1394. There each row picks a
    shard with probability proportional to its windows left, then the next window of that shard's random permutation.
    The result is a random permutation of all windows, which is drawn directly here.
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
    """Documents in random order, concatenated and cut into windows of `length` inputs (Parameter Golf #1512, branch).

    In each epoch the shards are in random order, and so are the documents of each shard. A document belongs to the
    shard in which it starts, and is read whole even if it continues in the next one. A shard is searched for document
    starts when it is reached. Tokens before the first document start of the stream are left out. Raises `BitgolfError`
    if the stream has no document start.
    """

    def windows(self, source: WindowSource) -> WindowFunction:
        return _ShuffledDocumentStream(source)


class _ShuffledDocumentStream:
    """The concatenation of all documents, epoch after epoch, and its windows."""

    def __init__(self, source: WindowSource) -> None:
        self.source = source
        stream = source.stream
        first = [stream.next_document_start(begin, source.bos) for begin in stream.shard_starts.tolist()]
        # The documents of shard i are the tokens shard_boundaries[i] to shard_boundaries[i + 1].
        self.shard_boundaries: Positions = np.array([*first, len(stream)])
        self.sizes = np.diff(self.shard_boundaries)
        self.tokens = int(self.sizes.sum())
        if not self.tokens:
            cause = f"the shards have no document start, BOS token {source.bos}"
            raise BitgolfError(cause, where=stream.folder, hint="use another data order")
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
        """Return the tokens from position `at` of the concatenation, at most `most`, to the end of the document."""
        epoch, offset = divmod(at, self.tokens)
        files, ends = self.files(epoch)
        i = int(np.searchsorted(ends, offset, side="right"))
        starts, ends = self.documents(epoch, int(files[i]), int(ends[i] - self.sizes[files[i]]))
        i = int(np.searchsorted(ends, offset, side="right"))
        left = int(ends[i]) - offset
        return self.source.stream.window(int(starts[i, 1]) - left, min(most, left))

    def _files(self, epoch: int) -> tuple[Positions, Positions]:
        """Return the shards of an epoch in order, and the end of each in the epoch's text: int64 (shards,) each."""
        files = self.source.generator(epoch, 0).permutation(len(self.sizes))
        return files, np.cumsum(self.sizes[files])

    def _documents(self, epoch: int, file: int, begin: int) -> tuple[Positions, Positions]:
        """Return the documents of a shard in the epoch's order, and the end of each in the epoch's text.

        The documents are stream positions (start, end), int64 (documents, 2). begin: start of the shard in the epoch's
        text.
        """
        starts = self.source.stream.document_starts_in(file, self.source.bos)
        spans = np.stack([starts, np.append(starts[1:], self.shard_boundaries[file + 1])], 1)
        spans = self.source.generator(epoch, 1 + file).permutation(spans)
        return spans, begin + np.cumsum(spans[:, 1] - spans[:, 0])
