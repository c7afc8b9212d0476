"""Compressed files and archives: gzip, bzip2, xz, zstd, zip and tar, read in blocks."""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from tarfile import HeaderError, ReadError, TarFile, TarInfo
from typing import IO, Any, NamedTuple, Self, cast

import zstandard

from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.text.read_report import ReadReport

BLOCK_BYTES = 1 << 20  # per read, and at most about this much from one step of a decompressor
_ZSTD_STEP = 1 << 12  # a byte of zstd expands to at most 32 KiB, and the output of a step has no limit

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd"}
SHORT_SUFFIXES = {".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
_COMPRESSION_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, tarfile.TarError)


def compression(name: str, head: bytes) -> tuple[str, str]:
    """Return (compression, "" if there is none; the name without its suffix), by suffix, else by content."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    if suffix in SHORT_SUFFIXES:
        path = path.with_suffix(SHORT_SUFFIXES[suffix])
        suffix = path.suffix
    if suffix in COMPRESSIONS:
        return COMPRESSIONS[suffix], str(path.with_suffix(""))
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return "bzip2", name
    return next((kind for magic, kind in _COMPRESSION_MAGIC if head.startswith(magic)), ""), name


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are the header of a tar archive of POSIX or GNU."""
    return head[257:262] == b"ustar"


# ---- compression -----------------------------------------------------------------------------------------------


def decompress(kind: str, blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Decompress all streams of a file, one after the other. Raises `CorruptFileError` if one is damaged or truncated."""
    try:
        yield from _STREAMS[kind](blocks)
    except BitgolfError:
        raise
    except (*_DAMAGE, OSError) as error:  # the decompressor of bzip2 raises OSError
        raise CorruptFileError(f"the file cannot be decompressed as {kind} ({error})", where=name) from error


def _decompress_gzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
    stream = None
    for block in blocks:
        while block or (stream and stream.unconsumed_tail):
            if stream is None and not (block := block.lstrip(b"\0")):  # padding between and after streams
                break
            stream = stream or zlib.decompressobj(31)
            data = stream.decompress(stream.unconsumed_tail + block, BLOCK_BYTES)
            yield data
            block = b""
            if stream.eof:
                block, stream = stream.unused_data, None
    if stream is not None:
        raise EOFError("the last stream is truncated")


def _bounded(new: Callable[[], Any]) -> Callable[[Iterable[bytes]], Iterator[bytes]]:
    """Return a function that decompresses with the decompressors of bz2 and lzma, which have `needs_input`."""

    def run(blocks: Iterable[bytes]) -> Iterator[bytes]:
        stream = None
        for block in blocks:
            while block or (stream and not stream.needs_input):
                if stream is None and not (block := block.lstrip(b"\0")):
                    break
                stream = stream or new()
                yield stream.decompress(block, BLOCK_BYTES)
                block = b""
                if stream.eof:
                    block, stream = stream.unused_data, None
        if stream is not None:
            raise EOFError("the last stream is truncated")

    return run


def _decompress_zstd(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress frames. zstandard's own reader accepts a truncated file."""
    frame = None
    for whole in blocks:
        for start in range(0, len(whole), _ZSTD_STEP):
            block = whole[start : start + _ZSTD_STEP]
            while block:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                yield frame.decompress(block)
                block = frame.unused_data
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame is truncated")


_STREAMS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {
    "gzip": _decompress_gzip,
    "bzip2": _bounded(bz2.BZ2Decompressor),
    "xz": _bounded(lzma.LZMADecompressor),
    "zstd": _decompress_zstd,
}


# ---- archives --------------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """A file in an archive. name: its path in the archive; blocks: its bytes, to be read before the next member."""

    name: str
    blocks: Iterator[bytes]


def tar_members(blocks: Iterable[bytes], name: str, report: ReadReport) -> Iterator[Member]:
    """Yield the files of a tar archive in order. Links and devices are skipped.

    Raises `CorruptFileError` for a damaged or truncated archive, and for data after its end.
    """
    with _archive_errors(name), tarfile.open(fileobj=_BlockReader(blocks), mode="r|", tarinfo=_StrictMember) as tar:
        for info in tar:
            if handle := tar.extractfile(info) if info.isfile() else None:
                yield Member(info.name, _member_blocks(handle, name))
            elif not info.isdir():
                report.skip("link or device in an archive", f"{name}/{info.name}")
        for rest in _member_blocks(cast("IO[bytes]", tar.fileobj), name):
            if rest.strip(b"\0"):
                raise ReadError("there is data after the end of the archive; are these two in one file?")


def zip_members(handle: IO[bytes], name: str) -> Iterator[Member]:
    """Yield the files of a zip archive, which must be seekable, in the order of its directory."""
    with _archive_errors(name), zipfile.ZipFile(handle) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as member:
                    yield Member(info.filename, _member_blocks(member, name))


@contextmanager
def _archive_errors(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise CorruptFileError(f"the archive cannot be read ({error})", where=name) from error
    except (NotImplementedError, RuntimeError) as error:  # raised by zipfile
        if isinstance(error, RecursionError):
            raise
        hint = "unpack it, and give the folder"
        raise BitgolfError(
            f"the archive is encrypted or compressed in an unknown way ({error})", where=name, hint=hint
        ) from error


def _member_blocks(handle: IO[bytes], name: str) -> Iterator[bytes]:
    with _archive_errors(name):
        yield from iter(lambda: handle.read(BLOCK_BYTES), b"")


@contextmanager
def seekable_copy(blocks: Iterable[bytes]) -> Iterator[IO[bytes]]:
    """A temporary file with the same bytes, for formats that cannot be read from start to end."""
    with tempfile.TemporaryFile() as handle:
        for block in blocks:
            handle.write(block)
        handle.seek(0)
        yield handle


class _StrictMember(TarInfo):
    """A member whose damaged header is an error. Without this, tarfile takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the proper end; typeshed lacks this class
                raise
            raise ReadError(f"damaged or missing header at byte {tarfile.offset:,}: {error}") from error


class _BlockReader(io.RawIOBase):
    """Blocks as a file, for tarfile."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks, self._rest, self._at = iter(blocks), b"", 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`; b"" at the end."""
        while self._at == len(self._rest):
            if (block := next(self._blocks, None)) is None:
                return b""
            self._rest, self._at = block, 0
        data = self._rest[self._at : self._at + size] if size >= 0 else self._rest[self._at :]
        self._at += len(data)
        return data
