"""Batches as a pure function of (seed, step).

There is no loader state to save, and the global batch is the same for any number of ranks.
"""

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
    """Inputs and targets, int64 (rows, length); each target is the token after its input."""

    inputs: TokenRows
    targets: TokenRows


class BatchLoader:
    """Loader of the batches of a run: in each step `rows` windows of `length` inputs, taken from `stream` in `order`.

    Raises `UsageError` for rows, length or seed out of range, `BitgolfError` for a stream shorter than a window.
    """

    def __init__(
        self, stream: TokenStream, *, rows: int, length: int, order: DataOrder, seed: int, bos: int = 1
    ) -> None:
        if rows < 1 or length < 1 or seed < 0:
            got = f"rows {rows}, length {length}, seed {seed}"
            raise UsageError(f"rows and length must be at least 1, and the seed at least 0, got {got}")
        if len(stream) < length + 1:
            raise BitgolfError(
                f"the text has {len(stream):,} tokens, but one row needs {length + 1:,}",
                where=stream.folder,
                hint="use more text or shorter rows",
            )
        self.stream, self.rows_per_step, self.length = stream, rows, length
        self._window = order.windows(WindowSource(stream, rows, length, seed, bos))

    def load_rows(self, step: int, first: int, count: int) -> TokenBatch:
        """Return the rows first, ..., first + count - 1 of a step: int64 (count, length)."""
        number = step * self.rows_per_step + first
        windows = np.stack([self._window(number + i) for i in range(count)])
        return TokenBatch(windows[:, :-1], windows[:, 1:])

    def load_batch(
        self, step: int, rank: int = 0, world_size: int = 1, *, rows: int = 0, length: int = 0
    ) -> TokenBatch:
        """Return a rank's rows of a step, int64 (rows / world_size, length); all ranks' rows are the global batch.

        rows, length: use only the first rows of the step, and their first tokens; 0 means all of them. Raises
        `UsageError` if the rows cannot be divided evenly.
        """
        share = rows_per_rank(rows or self.rows_per_step, world_size)
        inputs, targets = self.load_rows(step, rank * share, share)
        return TokenBatch(inputs[:, : length or self.length], targets[:, : length or self.length])


def rows_per_rank(rows: int, world_size: int) -> int:
    """Return the number of rows per rank. Raises `UsageError` if `rows` is not a multiple of `world_size`."""
    if rows % world_size:
        raise UsageError(
            f"{rows} rows cannot be divided evenly among {world_size} ranks",
            hint=f"set the rows of a step to a multiple of {world_size}",
        )
    return rows // world_size
