"""Batches as a pure function of (seed, step): no state to save, none to lose, and the same rows for any number of ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitgolf.data.coprime_stride import CoprimeStride
from bitgolf.data.orders import (
    DataOrder,
    PackedDocuments,
    SequentialOrder,
    ShuffledDocuments,
    ShuffledShardWindows,
    ShuffledWindows,
    WindowSource,
)
from bitgolf.data.shards import TokenStream
from bitgolf.errors import BitgolfError, UsageError

__all__ = [
    "BatchLoader",
    "CoprimeStride",
    "DataOrder",
    "PackedDocuments",
    "SequentialOrder",
    "ShuffledDocuments",
    "ShuffledShardWindows",
    "ShuffledWindows",
    "TokenBatch",
]

TokenRows = npt.NDArray[np.int64]


class TokenBatch(NamedTuple):
    """Inputs and targets, int64 [rows, length]; a target is the token after its input."""

    inputs: TokenRows
    targets: TokenRows


class BatchLoader:
    """The batches of a run: `rows` windows of `length` inputs in each step, taken from `stream` in `order`.

    Raises `BitgolfError` for a stream that has no whole window.
    """

    def __init__(
        self, stream: TokenStream, *, rows: int, length: int, order: DataOrder, seed: int, bos: int = 1
    ) -> None:
        if rows < 1 or length < 1 or seed < 0:
            raise UsageError(f"rows ({rows}) and length ({length}) start at 1, the seed ({seed}) at 0")
        if len(stream) < length + 1:
            raise BitgolfError(
                f"the text has {len(stream):,} tokens, and one row takes {length + 1:,}",
                where=stream.folder,
                hint="give more text, or shorten the rows",
            )
        self.stream, self.rows_per_step, self.length = stream, rows, length
        self._window = order.windows(WindowSource(stream, rows, length, seed, bos))

    def load_rows(self, step: int, first: int, count: int) -> TokenBatch:
        """Rows first, ..., first + count - 1 of a step: what one rank, or one piece of an accumulated step, trains on."""
        number = step * self.rows_per_step + first
        windows = np.stack([self._window(number + i) for i in range(count)])
        return TokenBatch(windows[:, :-1], windows[:, 1:])

    def load_batch(
        self, step: int, rank: int = 0, world_size: int = 1, *, rows: int = 0, length: int = 0
    ) -> TokenBatch:
        """A rank's share of a step, int64 [rows / world_size, length]; the shares in the order of the ranks are the whole step.

        A smaller batch (0: the whole) is the step's first `rows` rows, and their first `length` tokens.
        """
        share = rows_per_rank(rows or self.rows_per_step, world_size)
        inputs, targets = self.load_rows(step, rank * share, share)
        return TokenBatch(inputs[:, : length or self.length], targets[:, : length or self.length])


def rows_per_rank(rows: int, world_size: int) -> int:
    """Rows of each of `world_size` ranks. Raises `UsageError` where they cannot be shared evenly."""
    if rows % world_size:
        raise UsageError(
            f"{rows} rows cannot be shared by {world_size} ranks",
            hint=f"make the rows of a step a multiple of {world_size}",
        )
    return rows // world_size
