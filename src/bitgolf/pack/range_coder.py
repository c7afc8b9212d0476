"""Range coding of byte planes with constriction.

A stream consists of the number of symbols (LEB128), one table per plane (`pack.frequency_tables`) and one range-coded
payload for all planes. Tables are integers, and `_model` is the only place that converts them to probabilities, because
a conversion in float32 would give another stream than one in float64. Source: constriction (Bamler 2022, arXiv
2201.01741).
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

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # the attribute is created on import

BLOCK = 1 << 18  # symbols per call, since constriction needs int32, four times the size of a plane


def encode_plane_stream(planes: Bytes, forms: TableKinds = "smallest") -> bytes:
    """Encode planes, uint8 (k, n). Returns no bytes if n is 0. `forms`: allowed table forms (`choose_table`)."""
    if not planes.size:
        return b""
    tables = [choose_table(plane, forms) for plane in planes]
    header = [write_leb128(planes.shape[1]), *(table.encoded for table in tables)]
    return b"".join(header) + _encode_payload(planes, tables)


def decode_plane_stream(data: bytes, k: int, n: int) -> Bytes:
    """Decode planes, uint8 (k, n). Raises `CorruptFileError` unless encoding them with the stored tables gives `data`.

    An altered table can give the same payload for a few symbols; only the checksums of the container detect that.
    """
    if not n:
        if data:
            raise CorruptFileError(f"{len(data)} bytes, expected none for 0 symbols")
        return np.empty((k, 0), np.uint8)
    count, at = read_leb128(data, 0)
    if count != n:
        raise CorruptFileError(f"the stream declares {count} symbols, expected {n}")
    tables: list[FrequencyTable | AdaptiveTable] = []
    for _ in range(k):
        table, at = read_table(data, at)
        tables.append(table)
    planes, payload = _decode_payload(data[at:], tables, n), data[at:]
    # The decoder notices neither bytes after the payload nor changes near its end. Encoding the result again detects
    # both, and takes a third of the time of decoding.
    if _encode_payload(planes, tables) != payload:
        raise CorruptFileError(f"the range-coded payload of {len(payload)} bytes is damaged or followed by other bytes")
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
    """Call `code(part, low, model)` for each part of the plane, with the probability model that applies to this part.

    Encoder and decoder share this loop: `code` encodes the part, or fills it with decoded symbols.
    """
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
    """Probability model of constriction for these counts (float64). `perfect=True` would be slower and not smaller."""
    return _stream.model.Categorical(counts.astype(np.float64) / counts.sum(), lazy=False, perfect=False)
