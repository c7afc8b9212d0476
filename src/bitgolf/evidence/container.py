"""The file of a bundle: a ZIP archive without compression, in one form only, so that every byte of it is checked.

`manifest.json` comes first and has the SHA-256 of every other part. A file is accepted only if its parts, written again,
give exactly its bytes: a changed byte is found in a part by its digest, and anywhere else by that comparison. Any ZIP
program can unpack it.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bitgolf import __version__
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError
from bitgolf.files import require_file

MANIFEST = "manifest.json"
FORMAT = 1
LARGEST = 2_000_000_000
"""Bytes of a bundle: what fits ZIP without extensions, with room."""
LONGEST_NAME, MOST_PARTS = 200, 10_000
_DATE = 0x0021  # 1980-01-01, the first date of ZIP: bundles of equal parts are equal
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
_VERSION, _UTF8 = 20, 0x0800


class PartEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part in the manifest: its size in bytes and its SHA-256."""

    bytes: int
    sha256: str


class BundleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Contents of `manifest.json`. bitgolf: version that wrote the bundle. parts: by name, sorted."""

    format: int
    bitgolf: str
    parts: dict[str, PartEntry]


def write_bundle(parts: Mapping[str, bytes]) -> bytes:
    """Return the file with these parts. Raises `BitgolfError` if it would be too large."""
    entries = {name: PartEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in sorted(parts.items())}
    manifest = json.dumps(msgspec.to_builtins(BundleManifest(FORMAT, __version__, entries)), indent=1) + "\n"
    return _archive({MANIFEST: manifest.encode(), **dict(sorted(parts.items()))})


def _archive(parts: Mapping[str, bytes]) -> bytes:
    if sum(map(len, parts.values())) > LARGEST or len(parts) > MOST_PARTS:
        message = f"the bundle would have {sum(map(len, parts.values())):,} bytes in {len(parts):,} parts"
        raise BitgolfError(message, hint=f"at most {LARGEST:,} bytes and {MOST_PARTS:,} parts; leave the proof out")
    body, central = io.BytesIO(), io.BytesIO()
    for name, data in parts.items():
        encoded, crc, size = name.encode(), zlib.crc32(data), len(data)
        common = (_VERSION, _UTF8, 0, 0, _DATE, crc, size, size, len(encoded), 0)
        central.write(_CENTRAL.pack(b"PK\x01\x02", _VERSION, *common, 0, 0, 0, 0, body.tell()) + encoded)
        body.write(_LOCAL.pack(b"PK\x03\x04", *common) + encoded + data)
    listed, start = central.getvalue(), body.tell()
    end = _END.pack(b"PK\x05\x06", 0, 0, len(parts), len(parts), len(listed), start, 0)
    return body.getvalue() + listed + end


def read_bundle(path: Path) -> dict[str, bytes]:
    """Return the parts of a bundle, without its manifest.

    Raises `CorruptFileError`, which names the part, if any byte is not as it was written, and `FormatVersionError` for
    another format.
    """
    require_file(path)
    if path.stat().st_size > 2 * LARGEST:
        raise CorruptFileError("larger than any bundle", where=str(path))
    data = path.read_bytes()
    parts = _unpack(data, path)
    manifest = _manifest(parts.pop(MANIFEST, b""), path)
    if list(manifest.parts) != list(parts):
        raise CorruptFileError("its parts are not those that its manifest lists", where=f"{path}:{MANIFEST}")
    for name, entry in manifest.parts.items():
        if len(parts[name]) != entry.bytes or hashlib.sha256(parts[name]).hexdigest() != entry.sha256:
            raise CorruptFileError("the part has changed since the bundle was written", where=f"{path}:{name}")
    if _archive({MANIFEST: _unpack(data, path)[MANIFEST], **parts}) != data:
        raise CorruptFileError("bytes between the parts have changed since the bundle was written", where=str(path))
    return parts


def _unpack(data: bytes, path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > MOST_PARTS or any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise CorruptFileError("not a bundle: it is another kind of ZIP file", where=str(path))
            return {info.filename: archive.read(info) for info in infos}
    except (
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        OSError,
    ) as error:
        raise CorruptFileError(f"not a bundle, or damaged ({error})", where=str(path)) from error


def _manifest(data: bytes, path: Path) -> BundleManifest:
    where = f"{path}:{MANIFEST}"
    try:
        manifest = msgspec.json.decode(data, type=BundleManifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptFileError(f"no manifest of a bundle ({error})", where=where) from error
    if manifest.format != FORMAT:
        raise FormatVersionError("the bundle", found=manifest.format, supported=FORMAT, where=where)
    return manifest
