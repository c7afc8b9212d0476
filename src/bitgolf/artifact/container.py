"""The container: the one file that ships.

    magic `BGLF` | u16 version | u32 length of the header | u32 CRC-32 of the header | header | sections, back to back

Little-endian. The header of version 1 is Brotli-compressed JSON, strict and canonical: recipe, meta, and for each
section its name, coder, bytes, raw bytes, elements and CRC-32. Every byte of the file is covered by an equality or a
checksum. Checksums find damage, not forgery: whoever forges an artifact can only make a different valid one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bitgolf.errors import BitgolfError, DamagedError
from bitgolf.files import write_bytes
from bitgolf.pack.coders import Brotli
from bitgolf.pack.streams import Section

MAGIC = b"BGLF"
VERSION = 1
FRAME = struct.Struct("<4sHII")
CONTAINER_OVERHEAD_BYTES = 1200  # about what the frame, the recipe and the table of sections take, for forecasts
MAX_HEADER = 1 << 20  # bytes, compressed or not
MAX_RAW = 1 << 30  # bytes, of the file and of all sections together once decoded

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Name = Annotated[str, msgspec.Meta(max_length=120, pattern=r"^[A-Za-z0-9_.-]+\Z")]


@dataclass(frozen=True)
class Artifact:
    """What a file holds. `recipe` is JSON that is not looked into here; `header_bytes` is its size as stored."""

    recipe: dict[str, Any]
    meta: dict[str, Any]
    sections: dict[str, Section]
    header_bytes: int

    @property
    def bytes(self) -> int:
        """The size of the file."""
        return FRAME.size + self.header_bytes + sum(len(s.data) for s in self.sections.values())


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    name: Name
    codec: Name
    bytes: Size
    raw_bytes: Size
    elements: Size
    crc32: Size


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    recipe: dict[str, Any]
    meta: dict[str, str | int | float | bool | None]
    sections: list[_Row]


def write_artifact(
    path: Path, *, recipe: Mapping[str, Any], meta: Mapping[str, Any], sections: Sequence[Section]
) -> Artifact:
    """Write the file, whole or not at all, and return it as a reader will see it."""
    data = artifact_bytes(recipe=recipe, meta=meta, sections=sections)
    artifact = read_artifact(data)
    write_bytes(path, data)
    return artifact


def artifact_bytes(*, recipe: Mapping[str, Any], meta: Mapping[str, Any], sections: Sequence[Section]) -> bytes:
    """The file's bytes: the same for the same content, whatever the order of keys.

    Raises `BitgolfError` for what could not be read back: values that JSON does not have, repeated names, sizes
    beyond the limits.
    """
    rows = [_Row(s.name, s.codec, len(s.data), s.raw_bytes, s.elements, zlib.crc32(s.data)) for s in sections]
    try:
        packed = Brotli(shuffle=False).compress(_dump(_Header(dict(recipe), dict(meta), rows)))
        frame = FRAME.pack(MAGIC, VERSION, len(packed), zlib.crc32(packed))
        data = b"".join([frame, packed, *(s.data for s in sections)])
        artifact = _read(data, MAX_RAW)  # so that the writer keeps every limit of the reader
    except (DamagedError, TypeError, ValueError, RecursionError) as error:
        raise BitgolfError(f"cannot be written: {error}", place="artifact") from None
    if (artifact.recipe, artifact.meta) != (recipe, meta):
        raise BitgolfError("recipe or meta is not JSON (a NaN, a tuple, a key that is not text)", place="artifact")
    return data


def read_artifact(source: Path | bytes, *, limit: int = MAX_RAW) -> Artifact:
    """The artifact in a file (or in its bytes), all checksums verified, nothing decoded yet.

    `limit` bounds the file and the sum of all sections once decoded. Anything amiss is one `DamagedError`.
    """
    place = "artifact" if isinstance(source, bytes) else str(source)
    try:
        return _read(source if isinstance(source, bytes) else _file(source, limit), limit)
    except DamagedError as error:
        raise DamagedError(error.cause, place=place, mend="get the file again, or pack it again") from None


def _file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(limit + 1)
    except OSError as error:
        raise DamagedError(f"cannot be read ({error.strerror})") from None


def _read(data: bytes, limit: int) -> Artifact:
    if len(data) > limit:
        raise DamagedError(f"larger than the limit of {limit} bytes")
    if len(data) < FRAME.size:
        raise DamagedError("too short to be an artifact")
    magic, version, length, checksum = FRAME.unpack_from(data)
    if magic != MAGIC:
        raise DamagedError("not a Bitgolf artifact")
    if version != VERSION:
        raise DamagedError(f"artifact version {version}; this program reads version {VERSION}")
    if length > min(MAX_HEADER, len(data) - FRAME.size):
        raise DamagedError("the header is truncated or too large")
    packed = data[FRAME.size : FRAME.size + length]
    if zlib.crc32(packed) != checksum:
        raise DamagedError("the header's checksum does not match")
    header = _parse(Brotli().expand(packed, MAX_HEADER))
    if sum(row.raw_bytes for row in header.sections) > limit:
        raise DamagedError(f"the sections would take more than {limit} bytes")
    sections = {s.name: s for s in _sections(data, FRAME.size + length, header.sections)}
    return Artifact(header.recipe, header.meta, sections, length)


def _sections(data: bytes, at: int, rows: list[_Row]) -> Iterator[Section]:
    if at + sum(row.bytes for row in rows) != len(data):
        raise DamagedError(
            "the file's size is not that of its header and sections: truncated, or followed by other bytes"
        )
    for row in rows:
        content = data[at : at + row.bytes]
        if zlib.crc32(content) != row.crc32:
            raise DamagedError(f"the checksum of section {row.name} does not match")
        yield Section(row.name, row.codec, content, row.raw_bytes, row.elements)
        at += row.bytes


# ---- the header ----------------------------------------------------------------------------------------------------


def _dump(header: _Header) -> bytes:
    return msgspec.json.encode(header, order="deterministic")


def _parse(text: bytes) -> _Header:
    """The header in canonical JSON: what would not be written the same again (repeated keys, say) is refused."""
    try:
        header = msgspec.json.decode(text, type=_Header)
        canonical = _dump(header) == text
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the header is not what this program writes ({error})") from None
    if not canonical:
        raise DamagedError("the header is not canonical JSON")
    _check_rows(header.sections)
    return header


def _check_rows(rows: list[_Row]) -> None:
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise DamagedError("two sections have the same name")
    for row in rows:
        if row.raw_bytes not in {row.elements * size for size in (1, 2, 4, 8)}:
            raise DamagedError(f"section {row.name} contradicts itself: {row.elements} elements, {row.raw_bytes} bytes")
