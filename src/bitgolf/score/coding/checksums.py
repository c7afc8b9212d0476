"""Checksums of the probability tables. A decoder uses them to locate where its probabilities begin to differ."""

from __future__ import annotations

import zlib

import numpy as np

from bitgolf.errors import BitgolfError

CHECKSUM_INTERVALS = 64, 16_384
"""Tokens covered by the first checksum, and the maximum covered by a later one. Intervals double in between."""


class TableChecksums:
    """A running CRC-32 of the probability tables, of which one byte is stored per checksum.

    The encoder stores these bytes in `data`. The decoder compares them with those of the file, `expected`.
    hint: what to do if they differ.
    """

    def __init__(self, expected: bytes | None = None, hint: str = "") -> None:
        self.data, self.expected, self.hint = bytearray(), expected, hint
        self.crc = self.tokens = self.checked = 0
        self.since = ""

    def add(self, position: str, tables: np.ndarray) -> None:
        """Add the tables (n, V) of n tokens, the first at `position`. Raises as `finish` does."""
        self.since = self.since or position
        self.crc = zlib.crc32(tables.data, self.crc)
        self.tokens += len(tables)
        first, later = CHECKSUM_INTERVALS
        if self.tokens >= self.checked + min(max(self.checked, first), later):
            self.finish(position)

    def finish(self, until: str) -> None:
        """Store the checksum of all tables since the last checksum, if there are any.

        Raises `BitgolfError`, with the range of tokens, if it differs from the expected one.
        """
        if not self.since:
            return
        self.data.append(self.crc & 0xFF)
        i = len(self.data) - 1
        if self.expected is not None and self.expected[i : i + 1] != self.data[i:]:
            raise BitgolfError(
                "this machine computes other probabilities than the machine that compressed the file",
                where=f"between {self.since} and {until} (tokens {self.checked:,} to {self.tokens:,} in coding order)",
                hint=self.hint,
            )
        self.crc, self.checked, self.since = 0, self.tokens, ""
