"""How likely each byte is: tables that travel as counts, as the parameters of a curve, or not at all, and what each costs.

The first byte of a table is its form:

    one value      low
    even           low, values - 1                                   all of them equally likely (the low bytes of floats)
    counts         low, values - 1, a LEB128 number for each value
    curve          u16 centre, u8 spread, u8 power                   exp(-(|x - centre| / spread) ** power), in integers
    curve + pace   the same, and counts of what was seen are added to it block by block, by reader and writer alike

The centre is in 1/256, the spread in sixteenths of an octave from 1/16 on, the power in 1/32. A pace says how many seen
symbols the curve is worth, and how many seen ones are remembered: the older half is then worth half. Counts on both sides
are exact integers; the curve's come from decimal arithmetic, which is rounded the same on every machine.
"""

from __future__ import annotations

import decimal
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgolf.errors import CorruptFileError

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]
TableKinds = Literal["smallest", "sent", "adaptive"]

SINGLE_VALUE, UNIFORM, COUNTS, GENERALIZED_GAUSSIAN = range(4)
RESOLUTIONS = [1 << bits for bits in range(4, 22, 2)]
PRIOR_STRENGTHS = [4, 64, 1024, 1 << 14]  # symbols that a curve is worth
MEMORY_LENGTHS = [1 << 14, 1 << 17, 1 << 40]  # symbols; the last is all of them
ADAPTATIONS = [(strength, memory) for memory in MEMORY_LENGTHS for strength in PRIOR_STRENGTHS]
MAX_BLOCK = 1 << 13  # symbols between two adaptations
MAX_WEIGHT = 1 << 20  # of a curve; 256 of them times 2**30 symbols stay below 2**63

_EXACT = decimal.Context(prec=20, rounding=decimal.ROUND_HALF_EVEN)
_POWERS = np.array([16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 96, 128, 192])
_CURVE = struct.Struct("<HBB")


class FrequencyTable(NamedTuple):
    """`counts[i]` is the weight of the byte `low + i`; `encoded`: the table as it is written."""

    low: int
    counts: Counts
    encoded: bytes


class AdaptiveTable(NamedTuple):
    """A table to which the symbols that were seen are added.

    counts: the prior, worth `prior_strength` symbols.  memory: once more symbols than this were seen, their counts are halved.
    """

    low: int
    counts: Counts
    encoded: bytes
    prior_strength: int
    memory: int


class AdaptiveCounts:
    """The counts of a table that learns. `weights` sums to less than 2**63 for less than 2**30 symbols."""

    def __init__(self, table: AdaptiveTable) -> None:
        self.strength, self.memory, self.prior = table.prior_strength, table.memory, table.counts
        self.total, self.seen = int(table.counts.sum()), np.zeros_like(table.counts)

    def weights(self) -> Counts:
        return self.prior * self.strength + self.seen * self.total

    def update(self, histogram: Counts) -> None:
        self.seen = self.seen + histogram
        if self.seen.sum() > self.memory:
            self.seen = self.seen - (self.seen >> 1)


def adaptation_blocks(n: int) -> Iterator[tuple[int, int]]:
    """Where an adapting stream of `n` symbols is cut: each block is a quarter of what came before it."""
    start = 0
    while start < n:
        stop = min(n, start + max(16, min(start // 4, MAX_BLOCK)))
        yield start, stop
        start = stop


# ---- the choice ----------------------------------------------------------------------------------------------------


def choose_table(plane: Bytes, forms: TableKinds = "smallest") -> FrequencyTable | AdaptiveTable:
    """The table with which `plane` (one symbol at least) takes the fewest bytes, its own included.

    `forms`: of all, of those that do not adapt by counts alone, or of those that adapt.
    """
    pieces = np.array(
        [np.bincount(plane[start:stop], minlength=256) for start, stop in adaptation_blocks(plane.size)], np.int64
    )
    exact = pieces.sum(0)
    low, top = int(np.flatnonzero(exact)[0]), int(np.flatnonzero(exact)[-1])
    if low == top:
        return _one(low)
    found: list[tuple[float, FrequencyTable | AdaptiveTable]] = []
    if forms != "adaptive":
        here = exact[low : top + 1]
        sent = [_even(low, here.size), *(_counts(low, _scaled(here, resolution)) for resolution in RESOLUTIONS)]
        found += [(_bits(here, table.counts) + 8 * len(table.encoded), table) for table in sent]
    if forms != "sent":
        fitted = _fit_generalized_gaussian(exact)
        found.append(
            (_bits(exact, generalized_gaussian(*fitted)) + 8 * (1 + _CURVE.size), _generalized_gaussian_table(fitted))
        )
        found += _adapting(pieces, fitted)
    return min(found, key=lambda pair: pair[0])[1]


def _bits(exact: Counts, counts: Counts) -> float:
    seen = exact > 0
    return float(-(exact[seen] * np.log2(counts[seen] / counts.sum())).sum())


def _adapting(pieces: Counts, fitted: tuple[int, int, int]) -> list[tuple[float, AdaptiveTable]]:
    """Every pace that differs on so many symbols, with its bits. `pieces` (blocks, 256): the counts of each block."""
    count, found = int(pieces.sum()), list[tuple[float, AdaptiveTable]]()
    for memory in MEMORY_LENGTHS:
        if memory < count or memory == MEMORY_LENGTHS[-1]:
            paced = [_adaptive_table(fitted, i) for i, pace in enumerate(ADAPTATIONS) if pace[1] == memory]
            seen = _seen_counts(pieces, paced[0])
            found += [(_adapted_bits(pieces, seen, table) + 8 * len(table.encoded), table) for table in paced]
    return found


def _seen_counts(pieces: Counts, table: AdaptiveTable) -> Counts:
    """(blocks, 256) what a table of this memory has counted before each block."""
    state, seen = AdaptiveCounts(table), np.empty_like(pieces)
    for i, piece in enumerate(pieces):
        seen[i] = state.seen
        state.update(piece)
    return seen


def _adapted_bits(pieces: Counts, seen: Counts, table: AdaptiveTable) -> float:
    weights = (table.counts * table.prior_strength + seen * int(table.counts.sum())).astype(np.float64)
    return float((pieces.sum(1) * np.log2(weights.sum(1))).sum() - (pieces * np.log2(weights)).sum())


def _fit_generalized_gaussian(exact: Counts) -> tuple[int, int, int]:
    """Centre, spread and power of the likeliest curve, nearly. In floats: what is chosen is said, not derived again."""
    values, total = np.arange(256), int(exact.sum())
    centre = min(65535, round(256 * float((exact * values).sum() / total)))
    distance = np.abs(values - centre / 256)
    power = _POWERS[:, None] / 32
    about = (power[:, 0] * ((distance**power) @ exact) / total) ** (1 / power[:, 0])  # likeliest where steps are fine
    spread = np.clip(np.rint(16 * np.log2(about) + 64)[:, None] + np.arange(-12, 9), 0, 255).astype(np.int64)
    width = 2.0 ** ((spread - 64) / 16 * power)
    scaled = (distance**power)[:, None] / width[..., None]
    weights = np.maximum(np.exp(-np.minimum(scaled, 700)), 1 / MAX_WEIGHT)
    bits = total * np.log2(weights.sum(-1)) - np.log2(weights) @ exact
    best, at = np.unravel_index(np.argmin(bits), bits.shape)
    return centre, int(spread[best, at]), int(_POWERS[best])


@lru_cache(maxsize=1024)
def generalized_gaussian(centre: int, spread: int, power: int) -> Counts:
    """(256,) the weight of each byte, 1 to `MAX_WEIGHT`, exactly the same everywhere. Do not write into it."""
    exponent = _EXACT.divide(decimal.Decimal(power), 32)
    width = _EXACT.multiply(_EXACT.divide(decimal.Decimal(spread - 64), 16), _EXACT.ln(decimal.Decimal(2)))
    reach = _EXACT.exp(
        _EXACT.add(_EXACT.divide(decimal.Decimal(3), exponent), width)
    )  # beyond it the weight is below 1
    counts = np.ones(256, np.int64)
    for x in range(256):
        distance = _EXACT.divide(decimal.Decimal(abs(256 * x - centre)), 256)
        if not distance:
            counts[x] = MAX_WEIGHT
        elif distance < reach:
            scaled = _EXACT.exp(_EXACT.multiply(exponent, _EXACT.subtract(_EXACT.ln(distance), width)))
            counts[x] = max(1, int(_EXACT.multiply(_EXACT.exp(_EXACT.minus(scaled)), MAX_WEIGHT)))
    return counts


def _scaled(exact: Counts, resolution: int) -> Counts:
    total = int(exact.sum())
    scaled = np.round(exact * (min(resolution, total) / total)).astype(np.int64)
    return np.where(exact > 0, np.maximum(scaled, 1), 0)


# ---- as bytes ------------------------------------------------------------------------------------------------------


def _one(low: int) -> FrequencyTable:
    return FrequencyTable(low, np.ones(1, np.int64), bytes([SINGLE_VALUE, low]))


def _even(low: int, size: int) -> FrequencyTable:
    return FrequencyTable(low, np.ones(size, np.int64), bytes([UNIFORM, low, size - 1]))


def _counts(low: int, counts: Counts) -> FrequencyTable:
    head = bytes([COUNTS, low, counts.size - 1]) + b"".join(map(write_leb128, counts.tolist()))
    return FrequencyTable(low, counts, head)


def _generalized_gaussian_table(fitted: tuple[int, int, int]) -> FrequencyTable:
    return FrequencyTable(0, generalized_gaussian(*fitted), bytes([GENERALIZED_GAUSSIAN]) + _CURVE.pack(*fitted))


def _adaptive_table(fitted: tuple[int, int, int], pace: int) -> AdaptiveTable:
    """`pace`: index in `ADAPTATIONS`."""
    return AdaptiveTable(
        0,
        generalized_gaussian(*fitted),
        bytes([GENERALIZED_GAUSSIAN + 1 + pace]) + _CURVE.pack(*fitted),
        *ADAPTATIONS[pace],
    )


def read_table(data: bytes, offset: int) -> tuple[FrequencyTable | AdaptiveTable, int]:
    """The table at `offset`, and where the next begins. Raises `CorruptFileError` for what no writer writes."""
    size = {SINGLE_VALUE: 2, UNIFORM: 3, COUNTS: 3}.get(data[offset] if offset < len(data) else -1, 1 + _CURVE.size)
    head = data[offset : offset + size]
    if len(head) < size:
        raise CorruptFileError("the table is truncated")
    offset += size
    if head[0] == SINGLE_VALUE:
        return _one(head[1]), offset
    if head[0] >= GENERALIZED_GAUSSIAN:
        return _read_curve(head), offset
    low, values = head[1], head[2] + 1
    if values == 1 or low + values > 256:
        raise CorruptFileError("the table is not one of byte counts")
    if head[0] == UNIFORM:
        return _even(low, values), offset
    counts = np.empty(values, np.int64)
    for i in range(values):
        counts[i], offset = read_leb128(data, offset)
    if not counts[0] or not counts[-1]:
        raise CorruptFileError("the table's first or last value never occurs")
    return _counts(low, counts), offset


def _read_curve(head: bytes) -> FrequencyTable | AdaptiveTable:
    pace = head[0] - GENERALIZED_GAUSSIAN - 1
    fitted = _CURVE.unpack(head[1:])
    if pace >= len(ADAPTATIONS) or not fitted[2]:
        raise CorruptFileError("the table's curve or pace is not one that is known")
    return _generalized_gaussian_table(fitted) if pace < 0 else _adaptive_table(fitted, pace)


def write_leb128(value: int) -> bytes:
    """Seven bits in a byte, lowest first; the high bit says that more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_leb128(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, below 2**35, and where the next begins."""
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80 and (byte or not i):  # a zero at the end is a longer form than needed
            return value, at + i + 1
        if byte < 0x80:
            break
    raise CorruptFileError("a number is truncated, or not as it would be written")
