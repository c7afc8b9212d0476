"""Context modelling by sorting: symbols are split into one stream per context, and each stream is coded independently.

A context is information about a symbol that the decoder has before it decodes the symbol. There are two kinds. A codec
can derive contexts from the rows decoded so far (`ContextModel`; the trellis codec does). And since rows and columns of
a matrix differ in variance, variance classes of rows and columns can be stored, so that symbols of similar variance
share a table.

    u8 flag: 1 with variance classes | [u32 size | classes] | per context: count, and size if count > 0 | all streams

Counts and sizes of streams are LEB128 numbers.
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

CLASSES_PER_DOUBLING = 8
"""Classes of rows and columns per doubling of the RMS, i.e. steps of 9 %, which cost about 0.001 bits per symbol."""
VARIANCE_CLASSES = 40
"""Classes of symbols. The first begins at an RMS of 2**-2.5 quantization steps; the last has no upper limit."""


class ContextModel(Protocol):
    """Contexts of the symbols of one matrix, row by row. `context_count` is the number of contexts."""

    context_count: int

    def next_row(self) -> NDArray[np.uint8]:
        """Contexts (columns,) of the symbols of the next row."""
        ...

    def update(self, row: Array) -> None:
        """Pass the symbols (columns,) of that row to the model."""
        ...


class NoContext:
    """A context model with a single context."""

    context_count = 1

    def __init__(self, columns: int) -> None:
        self._row = np.zeros(columns, np.uint8)

    def next_row(self) -> NDArray[np.uint8]:
        return self._row

    def update(self, row: Array) -> None:
        pass


class VarianceClasses(NamedTuple):
    """Variance classes, uint8, of the rows and columns of a matrix.

    A class is the log2 of the RMS in units of 1 / `CLASSES_PER_DOUBLING`. The sum of the classes of a row and a column
    describes the RMS of the symbol at their intersection.
    """

    rows: NDArray[np.uint8]
    columns: NDArray[np.uint8]

    def symbol_classes(self) -> NDArray[np.uint8]:
        """The variance class of each symbol (rows, columns), 0 to `VARIANCE_CLASSES` - 1."""
        total = self.columns.astype(np.uint16) + self.rows[:, None]
        return np.minimum(total // 2, VARIANCE_CLASSES - 1).astype(np.uint8)


def variance_classes(codes: Array) -> VarianceClasses:
    """Variance classes of integer codes (rows, columns): RMS of the rows, and of the columns relative to the matrix."""
    squares = codes.astype(np.float32) ** 2 + 1 / 16  # avoids log2(0)
    rows = np.log2(squares.mean(1)) / 2 * CLASSES_PER_DOUBLING
    columns = np.log2(squares.mean(0) / squares.mean()) / 2 * CLASSES_PER_DOUBLING
    offset = max(0.0, float(-np.floor(columns.min())))
    return VarianceClasses(_to_uint8(rows + 2.5 * CLASSES_PER_DOUBLING - offset), _to_uint8(columns + offset))


def encode(matrices: Sequence[Array], context_models: Sequence[ContextModel], coder: Coder) -> bytes:
    """Encode matrices (rows, columns) of one integer dtype, split by context.

    context_models: one context model per matrix, in its initial state.
    Variance classes are used if the coder has `variance_contexts` and they make the result smaller.
    """
    found = _symbol_contexts(matrices, context_models)
    plain = _split_by_context(matrices, found, max(model.context_count for model in context_models))
    if not coder.variance_contexts:
        return b"\0" + _join_streams(plain, _encode_streams(plain, coder))
    classes = [variance_classes(m) for m in matrices]
    for context, matrix_classes in zip(found, classes, strict=True):
        context *= np.uint8(VARIANCE_CLASSES)
        context += matrix_classes.symbol_classes()
    refined = _split_by_context(matrices, found, _context_count(context_models, classes))
    coded = _encode_streams([*plain, *refined], coder)
    without = b"\0" + _join_streams(plain, coded[: len(plain)])
    return min(without, b"\1" + _write_classes(classes, coder) + _join_streams(refined, coded[len(plain) :]), key=len)


def decode(
    data: bytes,
    shapes: Sequence[tuple[int, int]],
    context_models: Sequence[ContextModel],
    dtype: np.dtype[np.int8],
    coder: Coder,
) -> list[Array]:
    """The inverse of `encode`. Raises `CorruptFileError` if `data` is not an encoding of matrices of these shapes."""
    if data[:1] not in (b"\0", b"\1"):
        raise CorruptFileError(f"the flag for variance classes must be 0 or 1, got {list(data[:1])}")
    classes, at = _read_classes(data, shapes, coder) if data[0] else (None, 1)
    sizes = []
    for _ in range(_context_count(context_models, classes)):
        count, at = read_leb128(data, at)
        size, at = read_leb128(data, at) if count else (0, at)
        sizes.append((count, size))
    if (total := sum(count for count, _ in sizes)) != (expected := sum(r * c for r, c in shapes)):
        raise CorruptFileError(f"the contexts have {total} symbols, the matrices {expected}")
    if (total := sum(size for _, size in sizes)) != len(data) - at:
        raise CorruptFileError(f"{len(data) - at} bytes of streams, expected {total}: truncated or too long")
    streams = []
    for count, size in sizes:
        streams.append(coder.decode(data[at : at + size], dtype, count) if count else np.empty(0, dtype))
        at += size
    return _merge_contexts(streams, shapes, context_models, classes)


def _context_count(models: Sequence[ContextModel], classes: list[VarianceClasses] | None) -> int:
    return max(model.context_count for model in models) * (VARIANCE_CLASSES if classes else 1)


def _symbol_contexts(matrices: Sequence[Array], models: Sequence[ContextModel]) -> list[NDArray[np.uint8]]:
    """The context of each symbol according to the context models, one array (rows, columns) per matrix."""
    found = [np.empty(codes.shape, np.uint8) for codes in matrices]
    for contexts, codes, model in zip(found, matrices, models, strict=True):
        if isinstance(model, NoContext):
            contexts[:] = 0
            continue
        for i, row in enumerate(codes):
            contexts[i] = model.next_row()
            model.update(row)
    return found


def _split_by_context(matrices: Sequence[Array], found: list[NDArray[np.uint8]], contexts: int) -> list[Array]:
    """The symbols of each context as one array, in the order of matrices and rows."""

    def pieces(at: int) -> list[Array]:
        context = found[at].reshape(-1)
        ends = np.cumsum(np.bincount(context, minlength=contexts))
        return np.split(matrices[at].reshape(-1)[np.argsort(context, kind="stable")], ends[:-1])

    return [np.concatenate(stream) for stream in zip(*parallel_map(pieces, range(len(matrices))), strict=True)]


def _encode_streams(streams: list[Array], coder: Coder) -> list[bytes]:
    return parallel_map(lambda stream: coder.encode(stream) if stream.size else b"", streams)


def _join_streams(streams: list[Array], coded: list[bytes]) -> bytes:
    sizes = [
        write_leb128(s.size) + (write_leb128(len(c)) if s.size else b"") for s, c in zip(streams, coded, strict=True)
    ]
    return b"".join(sizes + coded)


def _merge_contexts(
    streams: list[Array],
    shapes: Sequence[tuple[int, int]],
    models: Sequence[ContextModel],
    variances: list[VarianceClasses] | None,
) -> list[Array]:
    """The inverse of `_split_by_context`. Raises `CorruptFileError` if a stream has fewer symbols than its context."""
    at, matrices = np.zeros(len(streams), np.int64), []
    joined = np.concatenate(streams)
    starts = np.cumsum([0, *(s.size for s in streams)])
    for k, ((rows, columns), model) in enumerate(zip(shapes, models, strict=True)):
        codes, classes = np.empty((rows, columns), joined.dtype), variances[k].symbol_classes() if variances else None
        for i in range(rows):
            context = model.next_row()
            context = context if classes is None else context * np.uint8(VARIANCE_CLASSES) + classes[i]
            counts = np.bincount(context, minlength=len(streams))
            if (exhausted := starts[:-1] + at + counts > starts[1:]).any():
                raise CorruptFileError(f"the stream of context {exhausted.argmax()} ends before row {i} of matrix {k}")
            order = np.argsort(context, kind="stable")
            first = np.repeat(starts[:-1] + at - (np.cumsum(counts) - counts), counts)
            codes[i, order] = joined[first + np.arange(columns)]
            model.update(codes[i])
            at += counts
        matrices.append(codes)
    return matrices


def _to_uint8(classes: Array) -> NDArray[np.uint8]:
    return np.clip(np.rint(classes), 0, 255).astype(np.uint8)


def _write_classes(classes: list[VarianceClasses], coder: Coder) -> bytes:
    data = coder.encode(np.concatenate([part for pair in classes for part in pair]))
    return struct.pack("<I", len(data)) + data


def _read_classes(data: bytes, shapes: Sequence[tuple[int, int]], coder: Coder) -> tuple[list[VarianceClasses], int]:
    """The stored variance classes and the offset after them."""
    if len(data) < 5:
        raise CorruptFileError(f"truncated: {len(data)} bytes, at least 5 expected")
    end = 5 + struct.unpack_from("<I", data, 1)[0]
    sizes = [n for shape in shapes for n in shape]
    parts = np.split(coder.decode(data[5:end], np.dtype(np.uint8), sum(sizes)), np.cumsum(sizes)[:-1])
    return [VarianceClasses(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)], end
