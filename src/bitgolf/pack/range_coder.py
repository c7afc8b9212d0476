"""Range coding of byte planes with constriction, and the tables that it needs.

A stream is the number of symbols, for each plane a table, then one range-coded payload for all planes. A table is the
lowest byte, the number of byte values minus one, and a count for each of them: none where there is one value only, and a
single zero where all are equally likely (the low bytes of floats). Numbers are LEB128. Only integers are stored, and
`_model` alone turns them into probabilities: the same table in float32 and in float64 gives different streams.
Source: constriction (Bamler 2022, arXiv 2201.01741).
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from bitgolf.errors import DamagedError

Bytes = NDArray[np.uint8]
Counts = NDArray[np.int64]

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported

RESOLUTIONS = [1 << bits for bits in range(4, 22, 2)]
BLOCK = 1 << 18  # symbols at a time: constriction works on int32, four times the size of a plane


def encode_plane_stream(planes: Bytes) -> bytes:
    """`planes`: uint8[k, n]. Nothing at all where n is 0."""
    if not planes.size:
        return b""
    tables = [_choose_table(plane) for plane in planes]
    head = [_leb128(planes.shape[1]), *(_write_table(low, counts) for low, counts in tables)]
    return b"".join(head) + _payload(planes, tables)


def decode_plane_stream(data: bytes, k: int, n: int) -> Bytes:
    """uint8[k, n]. Raises `DamagedError` where `data` is not what `encode_plane_stream` makes with these tables."""
    if not n:
        if data:
            raise DamagedError("bytes where nothing is expected")
        return np.empty((k, 0), np.uint8)
    said, at = _read_leb128(data, 0)
    if said != n:
        raise DamagedError(f"{said} symbols, expected {n}")
    tables: list[tuple[int, Counts]] = []
    for _ in range(k):
        table, at = _read_table(data, at)
        tables.append(table)
    planes, payload = _decode_payload(data[at:], tables, n), data[at:]
    # The coder does not see that a payload goes on, or was altered near its end. That it encodes to itself says both.
    if _payload(planes, tables) != payload:
        raise DamagedError("the range-coded payload is damaged, or followed by other bytes")
    return planes


# ---- payload -------------------------------------------------------------------------------------------------------


def _model(counts: Counts) -> Any:
    """The only place where counts become probabilities: float64, never `perfect` (slow, and no smaller)."""
    return _stream.model.Categorical(counts.astype(np.float64) / counts.sum(), lazy=False, perfect=False)


def _payload(planes: Bytes, tables: list[tuple[int, Counts]]) -> bytes:
    encoder = _stream.queue.RangeEncoder()
    for plane, (low, counts) in zip(planes, tables, strict=True):
        if counts.size == 1:
            continue
        model = _model(counts)
        for start in range(0, plane.size, BLOCK):
            encoder.encode(plane[start : start + BLOCK].astype(np.int32) - low, model)
    return encoder.get_compressed().astype("<u4").tobytes()


def _decode_payload(payload: bytes, tables: list[tuple[int, Counts]], n: int) -> Bytes:
    planes = np.empty((len(tables), n), np.uint8)
    try:
        decoder = _stream.queue.RangeDecoder(np.frombuffer(payload, "<u4").astype(np.uint32))
        for plane, (low, counts) in zip(planes, tables, strict=True):
            if counts.size == 1:
                plane[:] = low
                continue
            model = _model(counts)
            for start in range(0, n, BLOCK):
                plane[start : start + BLOCK] = decoder.decode(model, min(BLOCK, n - start)) + low
    except (AssertionError, ValueError, KeyError) as error:  # what constriction raises for impossible data
        raise DamagedError(f"not a range-coded payload ({error})") from None
    return planes


# ---- tables --------------------------------------------------------------------------------------------------------


def _choose_table(plane: Bytes) -> tuple[int, Counts]:
    """The lowest byte and the counts from there on, at the resolution where table and payload are smallest together."""
    low = int(plane.min())
    exact: Counts = np.bincount(plane - low).astype(np.int64)
    if exact.size == 1:
        return low, exact
    tables = [np.ones_like(exact), *(_scaled(exact, resolution) for resolution in RESOLUTIONS)]
    return low, min(tables, key=lambda counts: _cost_bits(exact, counts))


def _scaled(exact: Counts, resolution: int) -> Counts:
    total = int(exact.sum())
    scaled = np.round(exact * (min(resolution, total) / total)).astype(np.int64)
    return np.where(exact > 0, np.maximum(scaled, 1), 0)


def _cost_bits(exact: Counts, counts: Counts) -> float:
    seen = exact > 0
    payload = -(exact[seen] * np.log2(counts[seen] / counts.sum())).sum()
    return float(payload) + 8 * len(_write_table(0, counts))


def _write_table(low: int, counts: Counts) -> bytes:
    head = bytes((low, counts.size - 1))
    if counts.size == 1:
        return head
    return head + b"".join(_leb128(count) for count in ([0] if (counts == 1).all() else counts.tolist()))


def _read_table(data: bytes, at: int) -> tuple[tuple[int, Counts], int]:
    if len(data) < at + 2:
        raise DamagedError("the table is truncated")
    low, size = data[at], data[at + 1] + 1
    at += 2
    counts = np.ones(size, np.int64)
    if size > 1 and data[at : at + 1] == b"\0":
        at += 1
    elif size > 1:
        for i in range(size):
            counts[i], at = _read_leb128(data, at)
    if low + size > 256 or not counts[-1]:
        raise DamagedError("the table is not one of byte counts")
    return (low, counts), at


def _leb128(value: int) -> bytes:
    """Seven bits in a byte, lowest first; the high bit says that more follow."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_leb128(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, below 2**35, and where the next begins."""
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80 and (byte or not i):  # a zero at the end is a longer form than needed
            return value, at + i + 1
        if byte < 0x80:
            break
    raise DamagedError("a number is truncated, or not as it would be written")
