"""The container: the one file that ships.

    magic `BGLF` | u16 version | u32 length of the header | u32 CRC-32 of the header | header | sections, back to back

Little-endian. The header of format 2 is Brotli-compressed JSON, strict and canonical: recipe, meta, and for each
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

from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError
from bitgolf.files import write_bytes
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.streams import Section

MAGIC = b"BGLF"
VERSION = 2
"""The format. A change that an older reader would misread raises it (docs/design.md, section 3)."""
PREAMBLE = struct.Struct("<4sHII")
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
        return PREAMBLE.size + self.header_bytes + sum(len(s.data) for s in self.sections.values())


class _SectionRecord(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    name: Name
    coder: Name
    bytes: Size
    raw_bytes: Size
    elements: Size
    crc32: Size


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    recipe: dict[str, Any]
    meta: dict[str, str | int | float | bool | None]
    sections: list[_SectionRecord]


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
    rows = [_SectionRecord(s.name, s.codec, len(s.data), s.raw_bytes, s.elements, zlib.crc32(s.data)) for s in sections]
    try:
        packed = Brotli(shuffle=False).compress(_dump(_Header(dict(recipe), dict(meta), rows)))
        frame = PREAMBLE.pack(MAGIC, VERSION, len(packed), zlib.crc32(packed))
        data = b"".join([frame, packed, *(s.data for s in sections)])
        artifact = _read(data, MAX_RAW)  # so that the writer keeps every limit of the reader
    except (CorruptFileError, TypeError, ValueError, RecursionError) as error:
        raise BitgolfError(f"cannot be written: {error}", where="artifact") from error
    if (artifact.recipe, artifact.meta) != (recipe, meta):
        raise BitgolfError("recipe or meta is not JSON (a NaN, a tuple, a key that is not text)", where="artifact")
    return data


def read_artifact(source: Path | bytes, *, limit: int = MAX_RAW) -> Artifact:
    """The artifact in a file (or in its bytes), all checksums verified, nothing decoded yet.

    `limit` bounds the file and the sum of all sections once decoded. Anything amiss is one `CorruptFileError`.
    """
    place = "artifact" if isinstance(source, bytes) else str(source)
    try:
        return _read(source if isinstance(source, bytes) else _file(source, limit), limit)
    except CorruptFileError as error:
        error.where, error.hint = place, error.hint or "get the file again, or pack it again"
        raise


def _file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(limit + 1)
    except OSError as error:
        raise CorruptFileError(f"cannot be read ({error.strerror})") from error


def _read(data: bytes, limit: int) -> Artifact:
    if len(data) > limit:
        raise CorruptFileError(f"larger than the limit of {limit} bytes")
    if len(data) < PREAMBLE.size:
        raise CorruptFileError("too short to be an artifact")
    magic, version, length, checksum = PREAMBLE.unpack_from(data)
    if magic != MAGIC:
        raise CorruptFileError("not a Bitgolf artifact")
    if version != VERSION:
        raise FormatVersionError("the artifact", found=version, supported=VERSION)
    if length > min(MAX_HEADER, len(data) - PREAMBLE.size):
        raise CorruptFileError("the header is truncated or too large")
    packed = data[PREAMBLE.size : PREAMBLE.size + length]
    if zlib.crc32(packed) != checksum:
        raise CorruptFileError("the header's checksum does not match")
    header = _parse(Brotli().decompress(packed, MAX_HEADER))
    if sum(row.raw_bytes for row in header.sections) > limit:
        raise CorruptFileError(f"the sections would take more than {limit} bytes")
    sections = {s.name: s for s in _sections(data, PREAMBLE.size + length, header.sections)}
    return Artifact(header.recipe, header.meta, sections, length)


def _sections(data: bytes, offset: int, rows: list[_SectionRecord]) -> Iterator[Section]:
    if offset + sum(row.bytes for row in rows) != len(data):
        raise CorruptFileError(
            "the file's size is not that of its header and sections: truncated, or followed by other bytes"
        )
    for row in rows:
        content = data[offset : offset + row.bytes]
        if zlib.crc32(content) != row.crc32:
            raise CorruptFileError(f"the checksum of section {row.name} does not match")
        yield Section(row.name, row.coder, content, row.raw_bytes, row.elements)
        offset += row.bytes


# ---- the header ----------------------------------------------------------------------------------------------------


def _dump(header: _Header) -> bytes:
    return msgspec.json.encode(header, order="deterministic")


def _parse(text: bytes) -> _Header:
    """The header in canonical JSON: what would not be written the same again (repeated keys, say) is refused."""
    try:
        header = msgspec.json.decode(text, type=_Header)
        canonical = _dump(header) == text
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the header is not what this program writes ({error})") from error
    if not canonical:
        raise CorruptFileError("the header is not canonical JSON")
    _check_rows(header.sections)
    return header


def _check_rows(rows: list[_SectionRecord]) -> None:
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise CorruptFileError("two sections have the same name")
    for row in rows:
        if row.raw_bytes not in {row.elements * size for size in (1, 2, 4, 8)}:
            raise CorruptFileError(
                f"section {row.name} contradicts itself: {row.elements} elements, {row.raw_bytes} bytes"
            )
