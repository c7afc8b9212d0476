"""Is a file text, and in which encoding: byte-order marks, NUL bytes, invalid UTF-8, and magic numbers."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain

from bitgolf.errors import CorruptFileError
from bitgolf.text.read_report import ReadReport

WINDOW_BYTES = 1 << 20  # text is checked in windows of this size
MAX_INVALID = 0.1  # share of bytes that are not valid UTF-8

BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAGIC_NUMBERS = (
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"%PDF-", "a PDF file"),
    (b"\x7fELF", "an ELF binary"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"ARROW1\x00", "an Arrow file"),
    (b"Obj\x01", "an Avro file"),
    (b"fLaC", "a FLAC file"),
    (b"OggS\x00", "an Ogg file"),
    (b"ID3\x03", "an MP3 file"),
    (b"ID3\x04", "an MP3 file"),
)


class UnreadableFormat(CorruptFileError):
    """A file of which nothing can be read as text. Skipped in a folder, an error where the user named it.

    reason: why, in a few words, under which the report counts it.
    """

    def __init__(self, reason: str, message: str, *, where: str, hint: str = "") -> None:
        self.reason = reason
        super().__init__(message, where=where, hint=hint)


def peek(blocks: Iterable[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """Return (the first `size` bytes or more, if there are as many; the same blocks from the start)."""
    rest, read, length = iter(blocks), list[bytes](), 0
    for block in rest:
        read.append(block)
        length += len(block)
        if length >= size:
            break
    head = b"".join(read)
    return head, chain([head], rest)


def windows(blocks: Iterable[bytes], size: int = WINDOW_BYTES) -> Iterator[bytes]:
    """Yield the same bytes in blocks of exactly `size` bytes; the last one may be shorter. Takes linear time."""
    held, length = list[bytes](), 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length >= size:
            data = b"".join(held)
            whole = length - length % size
            yield from (data[i : i + size] for i in range(0, whole, size))
            held, length = [data[whole:]], length - whole
    if length:
        yield b"".join(held)


def read_text(blocks: Iterable[bytes], name: str, report: ReadReport) -> Iterator[bytes]:
    """Yield the bytes of a text in UTF-8, in windows. Raises `UnreadableFormat` if the file is not text.

    UTF-16 and UTF-32 with a byte-order mark are converted, without the mark. Other bytes are unchanged. The file is not
    text if it begins with a known magic number, has a NUL byte, or more than 10 % of it is not valid UTF-8.
    """
    head, blocks = peek(blocks, 16)
    for magic, kind in MAGIC_NUMBERS:
        if head.startswith(magic):
            raise _not_text(f"it is {kind}", name)
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return _checked(windows(_convert(blocks, encoding, name, report)), name)
    return _checked(windows(blocks), name)


def _convert(blocks: Iterable[bytes], encoding: str, name: str, report: ReadReport) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in blocks:
            yield decoder.decode(block).encode()
        yield decoder.decode(b"", final=True).encode()
        report.convert(encoding.upper(), name)
    except UnicodeError as error:
        cause = (
            f"it begins with the byte-order mark of {encoding.upper()}, but is not valid {encoding.upper()} ({error})"
        )
        raise _not_text(cause, name) from error


def _checked(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the windows. Raises `UnreadableFormat` at the first one up to which the bytes are not text."""
    total = invalid = 0
    for block in blocks:
        if (at := block.find(b"\0")) >= 0:
            raise _not_text(f"byte {total + at:,} is NUL", name)
        total += len(block)
        invalid += invalid_bytes(block)
        if invalid > MAX_INVALID * total:
            hint = "convert it to UTF-8, for example with `iconv -f ENCODING -t UTF-8`"
            raise _not_text(f"{invalid:,} of its first {total:,} bytes are not valid UTF-8", name, hint)
        yield block


def invalid_bytes(data: bytes) -> int:
    """Return the number of bytes that are not part of a valid UTF-8 character."""
    if data.isascii():
        return 0
    try:
        data.decode()
    except UnicodeDecodeError:
        return len(data) - len(data.decode("utf-8", "ignore").encode())
    return 0


def _not_text(
    cause: str, name: str, hint: str = "leave the file out, or give its text in another format"
) -> UnreadableFormat:
    return UnreadableFormat("not text", f"the file is not text: {cause}", where=name, hint=hint)
