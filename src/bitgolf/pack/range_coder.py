"""Range coding of byte planes with constriction.

A stream is the number of symbols (LEB128), for each plane a table (`pack.frequency_tables`), then one range-coded payload for all
planes. Only integers are stored or counted, and `_model` alone turns them into probabilities: the same table in float32
and in float64 gives different streams. Source: constriction (Bamler 2022, arXiv 2201.01741).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from bitgolf.errors import CorruptFileError
from bitgolf.pack.frequency_tables import (
    AdaptiveCounts,
    AdaptiveTable,
    Bytes,
    Counts,
    FrequencyTable,
    TableKinds,
    adaptation_blocks,
    choose_table,
    read_leb128,
    read_table,
    write_leb128,
)

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported

BLOCK = 1 << 18  # symbols at a time: constriction works on int32, four times the size of a plane


def encode_plane_stream(planes: Bytes, forms: TableKinds = "smallest") -> bytes:
    """`planes`: uint8[k, n]. Nothing at all where n is 0. `forms`: which tables it may choose among (`tables.choose`)."""
    if not planes.size:
        return b""
    tables = [choose_table(plane, forms) for plane in planes]
    head = [write_leb128(planes.shape[1]), *(table.encoded for table in tables)]
    return b"".join(head) + _encode_payload(planes, tables)


def decode_plane_stream(data: bytes, k: int, n: int) -> Bytes:
    """uint8[k, n]. Raises `CorruptFileError` where `data` is not what `encode_plane_stream` makes with these tables.

    Another table may make the same of a few symbols; that these are the file's own bytes, its checksums say.
    """
    if not n:
        if data:
            raise CorruptFileError("bytes where nothing is expected")
        return np.empty((k, 0), np.uint8)
    said, at = read_leb128(data, 0)
    if said != n:
        raise CorruptFileError(f"{said} symbols, expected {n}")
    tables: list[FrequencyTable | AdaptiveTable] = []
    for _ in range(k):
        table, at = read_table(data, at)
        tables.append(table)
    planes, payload = _decode_payload(data[at:], tables, n), data[at:]
    # The coder does not see that a payload goes on, or was altered near its end. That it encodes to itself says both,
    # for a third of the time that decoding takes.
    if _encode_payload(planes, tables) != payload:
        raise CorruptFileError("the range-coded payload is damaged, or followed by other bytes")
    return planes


def _encode_payload(planes: Bytes, tables: Sequence[FrequencyTable | AdaptiveTable]) -> bytes:
    encoder = _stream.queue.RangeEncoder()

    def write(part: Bytes, low: int, model: Any) -> None:
        encoder.encode(part.astype(np.int32) - low, model)

    for plane, table in zip(planes, tables, strict=True):
        _code_plane(plane, table, write)
    return encoder.get_compressed().astype("<u4").tobytes()


def _decode_payload(payload: bytes, tables: Sequence[FrequencyTable | AdaptiveTable], n: int) -> Bytes:
    planes = np.empty((len(tables), n), np.uint8)
    try:
        decoder = _stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))

        def read(part: Bytes, low: int, model: Any) -> None:
            part[:] = decoder.decode(model, part.size) + low

        for plane, table in zip(planes, tables, strict=True):
            if table.counts.size == 1:
                plane[:] = table.low
            _code_plane(plane, table, read)
    except (AssertionError, ValueError, KeyError) as error:  # what constriction raises for impossible data
        raise CorruptFileError(f"not a range-coded payload ({error})") from error
    return planes


def _code_plane(plane: Bytes, table: FrequencyTable | AdaptiveTable, code: Callable[[Bytes, int, Any], None]) -> None:
    """Reading and writing are one walk: `code` fills or takes each part of the plane, with the model that holds there."""
    if table.counts.size == 1:
        return
    if not isinstance(table, AdaptiveTable):
        model = _model(table.counts)
        for start in range(0, plane.size, BLOCK):
            code(plane[start : start + BLOCK], table.low, model)
        return
    state = AdaptiveCounts(table)
    for start, stop in adaptation_blocks(plane.size):
        code(plane[start:stop], table.low, _model(state.weights()))
        state.update(np.bincount(plane[start:stop], minlength=256))


def _model(counts: Counts) -> NDArray[Any]:
    """The only place where counts become probabilities: float64, never `perfect` (slow, and no smaller)."""
    return _stream.model.Categorical(counts.astype(np.float64) / counts.sum(), lazy=False, perfect=False)
