"""Symbols that are coded knowing where they stand: sorted into one stream for each context, and back.

A context is what a reader knows of a symbol before it reads it. It has two sources. A codec may say, from the rows that
were read before, what can follow (`ContextModel`; a trellis does). And rows and columns of a matrix differ in spread: with
`levels` their spreads travel too, and symbols of like spread share a table. Any coder then codes each stream by itself.

    u8 with levels? | [u32 length | levels] | for each context: count, and length if there are any | the streams, back to back

Counts and lengths are LEB128.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bitgolf.errors import CorruptFileError
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coders import Coder
from bitgolf.pack.frequency_tables import read_leb128, write_leb128
from bitgolf.pack.parallel import parallel_map

CLASSES_PER_DOUBLING = 8  # levels: spreads are told apart by 9 %, which costs a table about 0.001 bit a symbol
VARIANCE_CLASSES = 40  # of spread, from 2**-2.5 of a step on; what is beyond belongs to the last


class ContextModel(Protocol):
    """Goes down the rows of one matrix. `context_count`: how many there are."""

    context_count: int

    def next_row(self) -> NDArray[np.uint8]:
        """(columns,) the contexts of the row that comes next."""
        ...

    def update(self, row: Array) -> None:
        """(columns,) the symbols that stood there."""
        ...


class NoContext:
    """A walk that knows nothing."""

    context_count = 1

    def __init__(self, columns: int) -> None:
        self._row = np.zeros(columns, np.uint8)

    def next_row(self) -> NDArray[np.uint8]:
        return self._row

    def update(self, row: Array) -> None:
        pass


class VarianceClasses(NamedTuple):
    """uint8 spreads of rows and columns, in eighths of an octave, such that their sum is that of a symbol."""

    rows: NDArray[np.uint8]
    columns: NDArray[np.uint8]

    def symbol_classes(self) -> NDArray[np.uint8]:
        """(rows, columns): which table each symbol is coded with."""
        total = self.columns.astype(np.uint16) + self.rows[:, None]
        return np.minimum(total // 2, VARIANCE_CLASSES - 1).astype(np.uint8)


def variance_classes(codes: Array) -> VarianceClasses:
    """The levels of a matrix of integers: those of its rows' root mean squares, and of its columns' next to them."""
    squares = codes.astype(np.float32) ** 2 + 1 / 16  # so that nothing is without spread
    rows = np.log2(squares.mean(1)) / 2 * CLASSES_PER_DOUBLING
    columns = np.log2(squares.mean(0) / squares.mean()) / 2 * CLASSES_PER_DOUBLING
    half = max(0.0, float(-np.floor(columns.min())))
    return VarianceClasses(_bytes(rows + 2.5 * CLASSES_PER_DOUBLING - half), _bytes(columns + half))


def encode(matrices: Sequence[Array], walks: Sequence[ContextModel], coder: Coder) -> bytes:
    """`matrices`: each (rows, columns), of one integer type; `walks`: as many, at their start.

    Levels are used where the coder may and they save more than they cost.
    """
    found = _symbol_contexts(matrices, walks)
    plain = _split_by_context(matrices, found, max(walk.context_count for walk in walks))
    if not coder.variance_contexts:
        return b"\0" + _join_streams(plain, _encode_streams(plain, coder))
    levels = [variance_classes(m) for m in matrices]
    for context, level in zip(found, levels, strict=True):
        context *= np.uint8(VARIANCE_CLASSES)
        context += level.symbol_classes()
    leveled = _split_by_context(matrices, found, _context_count(walks, levels))
    coded = _encode_streams([*plain, *leveled], coder)
    without = b"\0" + _join_streams(plain, coded[: len(plain)])
    return min(without, b"\1" + _write_levels(levels, coder) + _join_streams(leveled, coded[len(plain) :]), key=len)


def decode(
    data: bytes,
    shapes: Sequence[tuple[int, int]],
    walks: Sequence[ContextModel],
    dtype: np.dtype[np.int8],
    coder: Coder,
) -> list[Array]:
    """The inverse of `encode`. Raises `CorruptFileError` where `data` is not what it makes of such matrices."""
    if data[:1] not in (b"\0", b"\1"):
        raise CorruptFileError("does not say whether levels follow")
    found, at = _read_levels(data, shapes, coder) if data[0] else (None, 1)
    contexts = _context_count(walks, found)
    numbers = []
    for _ in range(contexts):
        count, at = read_leb128(data, at)
        length, at = read_leb128(data, at) if count else (0, at)
        numbers.append((count, length))
    if sum(count for count, _ in numbers) != sum(r * c for r, c in shapes):
        raise CorruptFileError("the contexts hold more or fewer symbols than the matrices")
    if sum(length for _, length in numbers) != len(data) - at:
        raise CorruptFileError("truncated, or followed by other bytes")
    streams = []
    for count, length in numbers:
        streams.append(coder.decode(data[at : at + length], dtype, count) if count else np.empty(0, dtype))
        at += length
    return _merge_contexts(streams, shapes, walks, found)


def _context_count(walks: Sequence[ContextModel], levels: list[VarianceClasses] | None) -> int:
    return max(walk.context_count for walk in walks) * (VARIANCE_CLASSES if levels else 1)


def _symbol_contexts(matrices: Sequence[Array], walks: Sequence[ContextModel]) -> list[NDArray[np.uint8]]:
    """For each matrix the context of each symbol, as the walk has it."""
    found = [np.empty(codes.shape, np.uint8) for codes in matrices]
    for contexts, codes, walk in zip(found, matrices, walks, strict=True):
        if isinstance(walk, NoContext):
            contexts[:] = 0
            continue
        for i, row in enumerate(codes):
            contexts[i] = walk.next_row()
            walk.update(row)
    return found


def _split_by_context(matrices: Sequence[Array], found: list[NDArray[np.uint8]], contexts: int) -> list[Array]:
    """The stream of each context: matrix by matrix, row by row."""

    def pieces(at: int) -> list[Array]:
        context = found[at].reshape(-1)
        ends = np.cumsum(np.bincount(context, minlength=contexts))
        return np.split(matrices[at].reshape(-1)[np.argsort(context, kind="stable")], ends[:-1])

    return [np.concatenate(stream) for stream in zip(*parallel_map(pieces, range(len(matrices))), strict=True)]


def _encode_streams(streams: list[Array], coder: Coder) -> list[bytes]:
    return parallel_map(lambda stream: coder.encode(stream) if stream.size else b"", streams)


def _join_streams(streams: list[Array], coded: list[bytes]) -> bytes:
    heads = [
        write_leb128(s.size) + (write_leb128(len(c)) if s.size else b"") for s, c in zip(streams, coded, strict=True)
    ]
    return b"".join(heads + coded)


def _merge_contexts(
    streams: list[Array],
    shapes: Sequence[tuple[int, int]],
    walks: Sequence[ContextModel],
    levels: list[VarianceClasses] | None,
) -> list[Array]:
    at, matrices = np.zeros(len(streams), np.int64), []
    joined = np.concatenate(streams)
    starts = np.cumsum([0, *(s.size for s in streams)])
    for k, ((rows, columns), walk) in enumerate(zip(shapes, walks, strict=True)):
        codes, classes = np.empty((rows, columns), joined.dtype), levels[k].symbol_classes() if levels else None
        for i in range(rows):
            context = walk.next_row() if classes is None else walk.next_row() * np.uint8(VARIANCE_CLASSES) + classes[i]
            counts = np.bincount(context, minlength=len(streams))
            if (starts[:-1] + at + counts > starts[1:]).any():
                raise CorruptFileError("a context ends before its symbols do")
            order = np.argsort(context, kind="stable")
            first = np.repeat(starts[:-1] + at - (np.cumsum(counts) - counts), counts)
            codes[i, order] = joined[first + np.arange(columns)]
            walk.update(codes[i])
            at += counts
        matrices.append(codes)
    return matrices


def _bytes(levels: Array) -> NDArray[np.uint8]:
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _write_levels(levels: list[VarianceClasses], coder: Coder) -> bytes:
    data = coder.encode(np.concatenate([part for pair in levels for part in pair]))
    return struct.pack("<I", len(data)) + data


def _read_levels(data: bytes, shapes: Sequence[tuple[int, int]], coder: Coder) -> tuple[list[VarianceClasses], int]:
    if len(data) < 5:
        raise CorruptFileError("truncated")
    end = 5 + struct.unpack_from("<I", data, 1)[0]
    sizes = [n for shape in shapes for n in shape]
    parts = np.split(coder.decode(data[5:end], np.dtype(np.uint8), sum(sizes)), np.cumsum(sizes)[:-1])
    return [VarianceClasses(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)], end
