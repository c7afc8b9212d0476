"""Frequency tables of bytes for the range coder: stored counts, or a generalized Gaussian, optionally adaptive.

The first byte of a stored table is its form:

    SINGLE_VALUE           low
    UNIFORM                low, values - 1                      equal probabilities, e.g. of the low bytes of floats
    COUNTS                 low, values - 1, one LEB128 count per value
    GENERALIZED_GAUSSIAN   u16 centre, u8 spread, u8 power      exp(-(|x - centre| / spread) ** power), as integers
    larger                 the same, as the prior of an adaptive table (index in `ADAPTATIONS`)

Units: centre 1/256, power 1/32; a stored spread s means 2 ** (s / 16 - 4). Encoder and decoder of an adaptive table add
the counts of the symbols coded so far to the prior, block by block. An entry of `ADAPTATIONS` is (weight of the prior
in symbols, number of symbols after which the counts are halved). All counts are exact integers, those of the generalized
Gaussian too (`pack.generalized_gaussian`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgolf.errors import CorruptFileError
from bitgolf.pack.generalized_gaussian import fit_generalized_gaussian, generalized_gaussian

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]
TableKinds = Literal["smallest", "sent", "adaptive"]

SINGLE_VALUE, UNIFORM, COUNTS, GENERALIZED_GAUSSIAN = range(4)
RESOLUTIONS = [1 << bits for bits in range(4, 22, 2)]
PRIOR_STRENGTHS = [4, 64, 1024, 1 << 14]  # weight of the prior in symbols
MEMORY_LENGTHS = [1 << 14, 1 << 17, 1 << 40]  # in symbols; the last is never reached
ADAPTATIONS = [(strength, memory) for memory in MEMORY_LENGTHS for strength in PRIOR_STRENGTHS]
MAX_BLOCK = 1 << 13  # largest number of symbols between two adaptations

_CURVE = struct.Struct("<HBB")


class FrequencyTable(NamedTuple):
    """A static table. `counts[i]` is the weight of the byte `low + i`; `encoded` is the stored form."""

    low: int
    counts: Counts
    encoded: bytes


class AdaptiveTable(NamedTuple):
    """A table to which the counts of coded symbols are added.

    counts: the prior, with the weight of `prior_strength` symbols.  memory: the counts are halved when they exceed this
    number of symbols.
    """

    low: int
    counts: Counts
    encoded: bytes
    prior_strength: int
    memory: int


class AdaptiveCounts:
    """State of an adaptive table while coding."""

    def __init__(self, table: AdaptiveTable) -> None:
        self.strength, self.memory, self.prior = table.prior_strength, table.memory, table.counts
        self.total, self.seen = int(table.counts.sum()), np.zeros_like(table.counts)

    def weights(self) -> Counts:
        """Current weights of the bytes. Their sum is below 2**63 for fewer than 2**30 symbols."""
        return self.prior * self.strength + self.seen * self.total

    def update(self, histogram: Counts) -> None:
        """Add the counts of a block of coded symbols."""
        self.seen = self.seen + histogram
        if self.seen.sum() > self.memory:
            self.seen = self.seen - (self.seen >> 1)


def adaptation_blocks(n: int) -> Iterator[tuple[int, int]]:
    """Blocks (start, stop) of an adaptive stream of `n` symbols.

    A block has a quarter as many symbols as there are before it, but at least 16 and at most `MAX_BLOCK`.
    """
    start = 0
    while start < n:
        stop = min(n, start + max(16, min(start // 4, MAX_BLOCK)))
        yield start, stop
        start = stop


# ---- selection -----------------------------------------------------------------------------------------------------


def choose_table(plane: Bytes, forms: TableKinds = "smallest") -> FrequencyTable | AdaptiveTable:
    """The table with which `plane` (at least one symbol) takes the fewest bytes, those of the table included.

    forms: `smallest` allows all forms, `sent` uniform tables and counts, `adaptive` the Gaussian and its adaptive
    forms. A plane with a single value always gets a `SINGLE_VALUE` table.
    """
    pieces = np.array(
        [np.bincount(plane[start:stop], minlength=256) for start, stop in adaptation_blocks(plane.size)], np.int64
    )
    exact = pieces.sum(0)
    low, top = int(np.flatnonzero(exact)[0]), int(np.flatnonzero(exact)[-1])
    if low == top:
        return _single_value_table(low)
    found: list[tuple[float, Callable[[], FrequencyTable | AdaptiveTable]]] = []  # size in bits, and how to make it
    if forms != "adaptive":
        used = exact[low : top + 1]
        uniform = _uniform_table(low, used.size)
        found.append((_bits(used, uniform.counts) + 8 * len(uniform.encoded), lambda: uniform))
        sent = [_scaled(used, resolution) for resolution in RESOLUTIONS]
        found += [(_bits(used, c) + 8 * (3 + _leb128_bytes(c)), partial(_count_table, low, c)) for c in sent]
    if forms != "sent":
        fitted = fit_generalized_gaussian(exact)
        curve = _generalized_gaussian_table(fitted)
        found.append((_bits(exact, curve.counts) + 8 * len(curve.encoded), lambda: curve))
        found += [(bits, partial(_adaptive_table, fitted, i)) for bits, i in _adaptive_candidates(pieces, fitted)]
    return min(found, key=lambda pair: pair[0])[1]()


def _bits(exact: Counts, counts: Counts) -> float:
    """Size in bits of symbols with the histogram `exact`, coded with the weights `counts`."""
    seen = exact > 0
    return float(-(exact[seen] * np.log2(counts[seen] / counts.sum())).sum())


def _adaptive_candidates(pieces: Counts, fitted: tuple[int, int, int]) -> list[tuple[float, int]]:
    """(bits, index) for each of `ADAPTATIONS`. Memory lengths that this number of symbols does not reach are left out.

    pieces: counts of each block (blocks, 256).
    """
    count, found = int(pieces.sum()), list[tuple[float, int]]()
    for memory in MEMORY_LENGTHS:
        if memory < count or memory == MEMORY_LENGTHS[-1]:
            tables = {i: _adaptive_table(fitted, i) for i, (_, length) in enumerate(ADAPTATIONS) if length == memory}
            seen = _seen_counts(pieces, next(iter(tables.values())))
            found += [(_adapted_bits(pieces, seen, table) + 8 * len(table.encoded), i) for i, table in tables.items()]
    return found


def _seen_counts(pieces: Counts, table: AdaptiveTable) -> Counts:
    """Counts (blocks, 256) that a table with this memory has before each block."""
    state, seen = AdaptiveCounts(table), np.empty_like(pieces)
    for i, piece in enumerate(pieces):
        seen[i] = state.seen
        state.update(piece)
    return seen


def _adapted_bits(pieces: Counts, seen: Counts, table: AdaptiveTable) -> float:
    weights = (table.counts * table.prior_strength + seen * int(table.counts.sum())).astype(np.float64)
    return float((pieces.sum(1) * np.log2(weights.sum(1))).sum() - (pieces * np.log2(weights)).sum())


def _scaled(exact: Counts, resolution: int) -> Counts:
    """Counts scaled to a sum of about `resolution`. Counts above 0 remain at least 1."""
    total = int(exact.sum())
    scaled = np.round(exact * (min(resolution, total) / total)).astype(np.int64)
    return np.where(exact > 0, np.maximum(scaled, 1), 0)


# ---- serialization -------------------------------------------------------------------------------------------------


def _single_value_table(low: int) -> FrequencyTable:
    return FrequencyTable(low, np.ones(1, np.int64), bytes([SINGLE_VALUE, low]))


def _uniform_table(low: int, size: int) -> FrequencyTable:
    return FrequencyTable(low, np.ones(size, np.int64), bytes([UNIFORM, low, size - 1]))


def _count_table(low: int, counts: Counts) -> FrequencyTable:
    encoded = bytes([COUNTS, low, counts.size - 1]) + b"".join(map(write_leb128, counts.tolist()))
    return FrequencyTable(low, counts, encoded)


def _generalized_gaussian_table(fitted: tuple[int, int, int]) -> FrequencyTable:
    return FrequencyTable(0, generalized_gaussian(*fitted), bytes([GENERALIZED_GAUSSIAN]) + _CURVE.pack(*fitted))


def _adaptive_table(fitted: tuple[int, int, int], adaptation: int) -> AdaptiveTable:
    """`adaptation`: index in `ADAPTATIONS`."""
    return AdaptiveTable(
        0,
        generalized_gaussian(*fitted),
        bytes([GENERALIZED_GAUSSIAN + 1 + adaptation]) + _CURVE.pack(*fitted),
        *ADAPTATIONS[adaptation],
    )


def read_table(data: bytes, offset: int) -> tuple[FrequencyTable | AdaptiveTable, int]:
    """The table at `offset` and the offset after it. Raises `CorruptFileError` if it is invalid."""
    size = {SINGLE_VALUE: 2, UNIFORM: 3, COUNTS: 3}.get(data[offset] if offset < len(data) else -1, 1 + _CURVE.size)
    head = data[offset : offset + size]
    if len(head) < size:
        raise CorruptFileError(f"the frequency table is truncated: {len(head)} of {size} bytes")
    offset += size
    if head[0] == SINGLE_VALUE:
        return _single_value_table(head[1]), offset
    if head[0] >= GENERALIZED_GAUSSIAN:
        return _read_gaussian(head), offset
    low, values = head[1], head[2] + 1
    if values == 1 or low + values > 256:
        raise CorruptFileError(f"the frequency table must have 2 or more values up to 255, got {values} from {low}")
    if head[0] == UNIFORM:
        return _uniform_table(low, values), offset
    counts = np.empty(values, np.int64)
    for i in range(values):
        counts[i], offset = read_leb128(data, offset)
    if not counts[0] or not counts[-1]:
        raise CorruptFileError("the frequency table has a count of 0 for its first or last value")
    return _count_table(low, counts), offset


def _read_gaussian(head: bytes) -> FrequencyTable | AdaptiveTable:
    adaptation = head[0] - GENERALIZED_GAUSSIAN - 1
    fitted = _CURVE.unpack(head[1:])
    if adaptation >= len(ADAPTATIONS) or not fitted[2]:
        raise CorruptFileError(f"the frequency table has an unknown form {head[0]} or an invalid power {fitted[2]}")
    return _generalized_gaussian_table(fitted) if adaptation < 0 else _adaptive_table(fitted, adaptation)


def write_leb128(value: int) -> bytes:
    """Encode an unsigned integer as LEB128: seven bits per byte, lowest first; the high bit is set if more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _leb128_bytes(values: Counts) -> int:
    """Number of bytes of all values as LEB128."""
    limits = np.array([1 << 7, 1 << 14, 1 << 21, 1 << 28])
    return int(values.size + (values[:, None] >= limits).sum())


def read_leb128(data: bytes, at: int) -> tuple[int, int]:
    """The LEB128 number at offset `at` and the offset after it.

    Raises `CorruptFileError` if it is truncated, has more than 5 bytes, or is not in its shortest form.
    """
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80 and (byte or not i):  # a zero as the last of several bytes is not the shortest form
            return value, at + i + 1
        if byte < 0x80:
            break
    raise CorruptFileError(f"the LEB128 number at byte {at} is truncated, too long or not in its shortest form")
