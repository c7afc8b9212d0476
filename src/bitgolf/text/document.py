"""A document, its fingerprint, and the split of long texts into several documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_DOCUMENT_BYTES = 1 << 16  # longer text files are split into several documents


class Document(NamedTuple):
    """A text. name: its origin, for messages; data: its raw bytes, which need not be valid UTF-8."""

    name: str
    data: bytes


def document_fingerprint(data: bytes) -> bytes:
    """Return 8 bytes of SHA-256 over the document's words, so that differences in white space do not matter."""
    return content_fingerprint(_single_spaces(data))


def content_fingerprint(data: bytes) -> bytes:
    """Return 8 bytes of SHA-256 over the document's bytes."""
    return hashlib.sha256(data).digest()[:8]


def _single_spaces(data: bytes) -> bytes:
    """Return `b" ".join(data.split())`, about five times as fast."""
    for white in (b"\t", b"\n", b"\r", b"\x0b", b"\x0c"):
        data = data.replace(white, b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data.strip(b" ")


def split_long_document(data: bytes, longest: int = MAX_DOCUMENT_BYTES) -> Iterator[bytes]:
    """Split `data` into pieces of at most `longest` bytes, whose concatenation is `data`.

    A piece ends after the last empty line in its second half, otherwise after the last line there, otherwise between
    two UTF-8 characters.
    """
    return split_long_text([data], longest)


def split_long_text(blocks: Iterable[bytes], longest: int = MAX_DOCUMENT_BYTES) -> Iterator[bytes]:
    """Yield the pieces of `split_long_document` for a text that is read in blocks; holds one block and one piece."""
    rest = b""
    for block in blocks:
        data, start = rest + block, 0
        while len(data) - start > longest:
            end = _piece_end(data, start, longest)
            yield data[start:end]
            start = end
        rest = data[start:]
    yield rest


def _piece_end(data: bytes, start: int, longest: int) -> int:
    """Return the end of the piece that begins at `start`; more than `longest` bytes must follow `start`."""
    window = start + longest // 2, start + longest
    if (end := data.rfind(b"\n\n", *window) + 2) < 2 and (end := data.rfind(b"\n", *window) + 1) < 1:
        end = start + longest
        while end > start + longest - 3 > start and data[end] & 0xC0 == 0x80:
            end -= 1
    return end
