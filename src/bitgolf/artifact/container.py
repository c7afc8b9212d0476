"""The container format of the artifact, i.e. of the file that is submitted.

    magic `BGLF` | u16 version | u32 size of the header | u32 CRC-32 of the header | header | all sections

Little-endian. The header of format 2 is Brotli-compressed canonical JSON with the recipe, the metadata and a table of
sections: name, coder, size in bytes, decoded size in bytes, number of elements and CRC-32. Every byte of the file is
covered by a comparison or a checksum. The checksums detect damage; they do not authenticate the author.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
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
"""The format number; when it must be raised is described in docs/architecture.md under "Format numbers"."""
PREAMBLE = struct.Struct("<4sHII")
CONTAINER_OVERHEAD_BYTES = 1200  # approximate size of preamble and header, used in size forecasts
MAX_HEADER = 1 << 20  # bytes; applies to the header before and after decompression
MAX_RAW = 1 << 30  # bytes; applies to the file and to the total size of the decoded sections

Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Name = Annotated[str, msgspec.Meta(max_length=120, pattern=r"^[A-Za-z0-9_.-]+\Z")]


@dataclass(frozen=True)
class Artifact:
    """The parsed content of an artifact file.

    recipe: JSON fields of the recipe, not interpreted by this module.  header_bytes: size of the compressed header.
    """

    recipe: dict[str, Any]
    meta: dict[str, Any]
    sections: dict[str, Section]
    header_bytes: int

    @property
    def bytes(self) -> int:
        """Size of the file in bytes."""
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
    """Write an artifact atomically and return it as `read_artifact` reads it.

    Raises `BitgolfError` as `artifact_bytes` does.
    """
    data = artifact_bytes(recipe=recipe, meta=meta, sections=sections)
    artifact = read_artifact(data)
    write_bytes(path, data)
    return artifact


def artifact_bytes(*, recipe: Mapping[str, Any], meta: Mapping[str, Any], sections: Sequence[Section]) -> bytes:
    """The bytes of an artifact file. They do not depend on the order of keys.

    Raises `BitgolfError` for content that cannot be read back: values that JSON cannot represent, duplicate section
    names, sizes above the limits.
    """
    rows = [_SectionRecord(s.name, s.codec, len(s.data), s.raw_bytes, s.elements, zlib.crc32(s.data)) for s in sections]
    try:
        packed = Brotli(shuffle=False).compress(_dump(_Header(dict(recipe), dict(meta), rows)))
        frame = PREAMBLE.pack(MAGIC, VERSION, len(packed), zlib.crc32(packed))
        data = b"".join([frame, packed, *(s.data for s in sections)])
        artifact = _read(data, MAX_RAW)  # checks the content against all limits of the reader
    except (CorruptFileError, TypeError, ValueError, RecursionError) as error:
        raise BitgolfError(f"the artifact cannot be written: {error}", where="artifact") from error
    if (artifact.recipe, artifact.meta) != (recipe, meta):
        field = "meta" if artifact.recipe == recipe else "recipe"
        cause = f"{field} has a value that JSON cannot represent, e.g. NaN, a tuple or a key that is not a string"
        raise BitgolfError(cause, where="artifact")
    return data


def read_artifact(source: Path | bytes, *, limit: int = MAX_RAW) -> Artifact:
    """Read an artifact from a file or from its bytes and verify all checksums. Sections are not decoded.

    limit: largest size in bytes of the file, and of all decoded sections together.
    Raises `CorruptFileError` if the file is not a valid artifact, with the path and a hint.
    """
    where = "artifact" if isinstance(source, bytes) else str(source)
    try:
        return _read(source if isinstance(source, bytes) else _read_file(source, limit), limit)
    except CorruptFileError as error:
        error.where, error.hint = where, error.hint or "copy or download the file again, or pack it again"
        raise


def _read_file(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(limit + 1)
    except OSError as error:
        raise CorruptFileError(f"the artifact cannot be read ({error.strerror})") from error


def _read(data: bytes, limit: int) -> Artifact:
    if len(data) > limit:
        raise CorruptFileError(f"the file has more bytes than the limit of {limit}")
    if len(data) < PREAMBLE.size:
        raise CorruptFileError(f"the file has {len(data)} bytes, an artifact has at least {PREAMBLE.size}")
    magic, version, length, checksum = PREAMBLE.unpack_from(data)
    if magic != MAGIC:
        raise CorruptFileError(f"not a Bitgolf artifact: the file begins with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise FormatVersionError("the artifact", found=version, supported=VERSION)
    if length > min(MAX_HEADER, len(data) - PREAMBLE.size):
        raise CorruptFileError(f"the header of {length} bytes is truncated or above the limit of {MAX_HEADER} bytes")
    packed = data[PREAMBLE.size : PREAMBLE.size + length]
    if zlib.crc32(packed) != checksum:
        raise CorruptFileError(f"the checksum of the header is {zlib.crc32(packed):08x}, expected {checksum:08x}")
    header = _parse(Brotli().decompress(packed, MAX_HEADER))
    if (size := sum(row.raw_bytes for row in header.sections)) > limit:
        raise CorruptFileError(f"the decoded sections have {size} bytes, more than {limit}")
    sections = {s.name: s for s in _sections(data, PREAMBLE.size + length, header.sections)}
    return Artifact(header.recipe, header.meta, sections, length)


def _sections(data: bytes, offset: int, rows: list[_SectionRecord]) -> Iterator[Section]:
    if (size := offset + sum(row.bytes for row in rows)) != len(data):
        cause = f"the file has {len(data)} bytes, its header and sections {size}"
        raise CorruptFileError(f"{cause}: truncated, or followed by other bytes")
    for row in rows:
        content = data[offset : offset + row.bytes]
        if (found := zlib.crc32(content)) != row.crc32:
            raise CorruptFileError(f"the checksum of section {row.name} is {found:08x}, expected {row.crc32:08x}")
        yield Section(row.name, row.coder, content, row.raw_bytes, row.elements)
        offset += row.bytes


# ---- the header ----------------------------------------------------------------------------------------------------


def _dump(header: _Header) -> bytes:
    return msgspec.json.encode(header, order="deterministic")


def _parse(text: bytes) -> _Header:
    """Parse the header. Raises `CorruptFileError` unless it is canonical JSON, i.e. what `_dump` writes for it."""
    try:
        header = msgspec.json.decode(text, type=_Header)
        canonical = _dump(header) == text
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the header has invalid JSON or fields ({error})") from error
    if not canonical:
        raise CorruptFileError(f"the header of {len(text)} bytes is not canonical JSON")
    _check_rows(header.sections)
    return header


def _check_rows(rows: list[_SectionRecord]) -> None:
    """Raise `CorruptFileError` for duplicate section names and inconsistent sizes."""
    for name, count in Counter(row.name for row in rows).most_common(1):
        if count > 1:
            raise CorruptFileError(f"{count} sections have the name {name}")
    for row in rows:
        if row.raw_bytes not in {row.elements * size for size in (1, 2, 4, 8)}:
            sizes = f"{row.elements} elements in {row.raw_bytes} bytes"
            raise CorruptFileError(f"section {row.name} declares {sizes}; an element has 1, 2, 4 or 8 bytes")
