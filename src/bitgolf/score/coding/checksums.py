"""Checksums of the probability tables, by which a decoder finds out where its probabilities begin to differ."""

from __future__ import annotations

import zlib

import numpy as np

from bitgolf.errors import BitgolfError

CHECKSUM_INTERVALS = 64, 16_384
"""Number of tokens under the first checksum, and the most under a later one."""


class TableChecksums:
    """A running CRC-32 of the tables, of which one byte is kept at each checksum.

    The encoder writes these bytes (`data`). A decoder is given them (`expected`): the first that differs is an error that
    says between which tokens.
    """

    def __init__(self, expected: bytes | None = None) -> None:
        self.data, self.expected = bytearray(), expected
        self.crc = self.tokens = self.checked = 0
        self.since = ""

    def add(self, position: str, tables: np.ndarray) -> None:
        """Add the tables (n, V) of n tokens, the first of which is at `position`."""
        self.since = self.since or position
        self.crc = zlib.crc32(tables.data, self.crc)
        self.tokens += len(tables)
        first, later = CHECKSUM_INTERVALS
        if self.tokens >= self.checked + min(max(self.checked, first), later):
            self.finish(position)

    def finish(self, until: str) -> None:
        """Keep the checksum of all tables since the last one, if there are any."""
        if not self.since:
            return
        self.data.append(self.crc & 0xFF)
        i = len(self.data) - 1
        if self.expected is not None and self.expected[i : i + 1] != self.data[i:]:
            raise BitgolfError(
                "this machine computes other probabilities than the one that compressed the file",
                where=f"between {self.since} and {until} (tokens {self.checked:,} to {self.tokens:,} in coding order)",
                hint="decompress with the same torch version on the same kind of processor",
            )
        self.crc, self.checked, self.since = 0, self.tokens, ""
