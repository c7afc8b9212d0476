"""The .bgz file format, version 5: writing, and reading a file that may be damaged or hostile.

    magic and version | sections

    section: kind (1 byte) | size of the body (LEB128) | body | CRC-32 of all sections up to here
    H, header, the first section: arithmetic (LEB128, see `arithmetic`), and for the native one the length and the text of
    the fingerprint of the machine | numbers (LEB128): method (0: sliding windows, the next two numbers are window and
    stride; i: the artifact's i-th method), rows | digest of the model, 8 bytes
    C, coded documents: numbers (LEB128): documents, tokens (ends included), bytes, checksums, size of the lengths |
    lengths of the documents in targets (`length_code`) | SHA-256 of the documents, first 8 bytes | checksums | payload
    S, stored: the bytes of one document
    E, end, the last section: no body

A section is a text of its own: its documents affect no other section. The ends of documents are known from the lengths
and not coded. Since each CRC continues that of the section before, sections that are missing or exchanged are found.
A checksum is one byte of the CRC-32 of the probability tables since the previous checksum (see `checksums`). It stops
a decoder that computes other probabilities and locates the difference. There is a checksum after 64, 128, … 16,384
tokens, then after every 16,384 tokens, and at the end. Versions 3 and 4 are read by `former_format`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, CorruptFileError, UsageError
from bitgolf.pack.frequency_tables import read_leb128, write_leb128
from bitgolf.score.coding.arithmetic import ARITHMETICS, Arithmetic, NativeArithmetic, machine_fingerprint
from bitgolf.score.coding.coded_text import MIN_PROBABILITY, CodingTask, EncodedText, TextCodec
from bitgolf.score.coding.open_predictor import num_rows
from bitgolf.score.length_code import decode_lengths, encode_lengths
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring

MAGIC = b"BGZ\x05"  # the last byte is the version of the format
HEADER, CODED, STORED, END = b"H", b"C", b"S", b"E"
MAX_FINGERPRINT = 100  # bytes
MAX_ROWS, MAX_POSITIONS = 1 << 12, 1 << 20  # rows, and rows * window: they bound the memory that a file can demand
FREE_DOCUMENTS = 4096
"""Documents of a section that need not have a byte of payload for every eight of them."""


class BGZSection(NamedTuple):
    """A section whose CRC was right. kind: one of HEADER, CODED, STORED and END."""

    kind: bytes
    body: bytes


class BGZHeader(NamedTuple):
    """What all sections of a file share.

    fingerprint: of the machine that compressed it in native arithmetic; empty if it is not known or does not matter.
    """

    arithmetic: Arithmetic
    fingerprint: str
    method: ScoringMethod
    rows: int


class CodedSection(NamedTuple):
    """The parsed body of coded documents. bytes: of all documents. digest: of the documents, see `documents_digest`."""

    task: CodingTask
    bytes: int
    digest: bytes
    checksums: bytes
    payload: bytes


# ---- sections --------------------------------------------------------------------------------------------------------


class SectionWriter:
    """Writes magic and sections to a file. written: bytes so far."""

    def __init__(self, target: BinaryIO) -> None:
        self._target, self._crc, self.written = target, 0, 0
        self._write(MAGIC)

    def add(self, section: BGZSection) -> None:
        """Write a section."""
        framed = section.kind + write_leb128(len(section.body)) + section.body
        self._crc = zlib.crc32(framed, self._crc)
        self._write(framed + self._crc.to_bytes(4, "little"))

    def _write(self, data: bytes) -> None:
        self._target.write(data)
        self.written += len(data)


def read_sections(source: BinaryIO, size: int) -> Iterator[BGZSection]:
    """The sections of a file of `size` bytes, from its start to its end. Only one is in memory.

    Raises `CorruptFileError` if the file is damaged or cut, or has bytes after its end.
    """
    source.seek(len(MAGIC))
    at, crc, kind = len(MAGIC), 0, b""
    while kind != END:
        start = source.read(6)
        kind = start[:1]
        if kind not in (HEADER, CODED, STORED, END):
            raise _damaged(at, f"a section of kind {kind.hex()}" if kind else "no further section", size)
        length, after = read_leb128(start, 1)
        if at + after + length + 4 > size:
            raise _damaged(at, f"a section of {length:,} bytes", size)
        source.seek(at + after)
        body, stored = source.read(length), source.read(4)
        crc = zlib.crc32(body, zlib.crc32(start[:after], crc))
        if crc.to_bytes(4, "little") != stored:
            raise _damaged(at, "a section whose CRC-32 checksum does not match its contents", size)
        if (kind == HEADER) != (at == len(MAGIC)) or (kind == END and length):
            raise _damaged(at, f"a misplaced section of kind {kind.decode()}", size)
        at += after + length + 4
        yield BGZSection(kind, body)
    if at != size:
        raise CorruptFileError(f"the compressed file ends at byte {at:,}, but {size - at:,} bytes follow")


def _damaged(at: int, found: str, size: int) -> CorruptFileError:
    return CorruptFileError(f"the compressed file ({size:,} bytes) is cut or damaged: at byte {at:,} there is {found}")


# ---- the header ------------------------------------------------------------------------------------------------------


def header_section(codec: TextCodec, arithmetic: Arithmetic, method: Spec[ScoringMethod], rows: int) -> BGZSection:
    """The header. Raises `UsageError` if a decoder cannot reconstruct the method."""
    numbers = [*encode_method(codec, method), rows]
    return BGZSection(HEADER, _write_arithmetic(arithmetic) + b"".join(map(write_leb128, numbers)) + codec.digest)


def parse_header(codec: TextCodec, body: bytes) -> BGZHeader:
    """Raises `CorruptFileError` if the header is not valid, `BitgolfError` if another model compressed the file."""
    arithmetic, fingerprint, at = read_arithmetic(body, 0)
    number, at = read_leb128(body, at)
    windows, at = read_numbers(body, at, 0 if number else 2)
    (rows,), at = read_numbers(body, at, 1)
    check_model(codec, body[at:])
    method = decode_method(codec, number, windows)
    check_memory(rows, method)
    return BGZHeader(arithmetic, fingerprint, method, rows)


def _write_arithmetic(arithmetic: Arithmetic) -> bytes:
    if not isinstance(arithmetic, NativeArithmetic):
        return write_leb128(arithmetic.code)
    fingerprint = machine_fingerprint().encode()[:MAX_FINGERPRINT]
    return write_leb128(arithmetic.code) + write_leb128(len(fingerprint)) + fingerprint


def read_arithmetic(data: bytes, at: int) -> tuple[Arithmetic, str, int]:
    """The arithmetic, the fingerprint and the end of both. Raises `CorruptFileError` for an unknown arithmetic."""
    code, at = read_leb128(data, at)
    if code not in ARITHMETICS:
        names = ", ".join(arithmetic.name for arithmetic in ARITHMETICS.values())
        raise CorruptFileError(f"the compressed file uses arithmetic {code}; this version knows {names}")
    if not isinstance(ARITHMETICS[code], NativeArithmetic):
        return ARITHMETICS[code], "", at
    length, at = read_leb128(data, at)
    text = data[at : at + length].decode("latin-1")
    if length > MAX_FINGERPRINT or not (text.isascii() and text.isprintable()):
        raise CorruptFileError(f"the compressed file has an invalid fingerprint of {length:,} bytes")
    return ARITHMETICS[code], text, at + length


def read_numbers(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """The next LEB128 numbers and the offset after them."""
    numbers = list[int]()
    for _ in range(count):
        number, at = read_leb128(data, at)
        numbers.append(number)
    return numbers, at


def check_model(codec: TextCodec, digest: bytes) -> None:
    """Raises `BitgolfError` if a file has the digest of another model."""
    if digest != codec.digest:
        cause = f"the file was compressed with another model: digest {digest.hex()}, not {codec.digest.hex()}"
        raise BitgolfError(cause, hint="use the artifact that the file was compressed with")


def encode_method(codec: TextCodec, method: Spec[ScoringMethod]) -> list[int]:
    """The method as numbers of the header. Raises `UsageError` if a decoder cannot reconstruct it."""
    if method in codec.methods:
        return [codec.methods.index(method) + 1]
    made = method()
    if (
        type(made) not in (ContiguousScoring, SlidingScoring)
        or made.rope_scaling
        or made.full_windows
        or made.first_stride != made.window
    ):
        cause = f"method {made.name!r} with these settings is not in the artifact, so a decoder cannot reconstruct it"
        raise UsageError(cause, where="method", hint="use a method of the artifact, contiguous or sliding")
    return [0, made.window, made.stride]


def decode_method(codec: TextCodec, number: int, windows: Sequence[int]) -> ScoringMethod:
    """The method of a header. windows: window and stride if the number is 0. Raises `CorruptFileError`."""
    if not number:
        window, stride = windows
        if not 1 <= stride <= window <= 1 << 16:
            raise CorruptFileError(f"the compressed file has an invalid window of {window} tokens with stride {stride}")
        return SlidingScoring(window=window, stride=stride)
    if number > len(codec.methods):
        cause = f"the compressed file uses method {number} of the artifact, which has {len(codec.methods)} methods"
        raise CorruptFileError(cause)
    return codec.methods[number - 1]()


def check_memory(rows: int, method: ScoringMethod) -> None:
    """Raises `CorruptFileError` for a header with rows that `check_rows` refuses."""
    try:
        check_rows(rows, method)
    except UsageError as error:
        raise CorruptFileError(f"the compressed file's header is invalid: {error.message}") from error


def check_rows(rows: int, method: ScoringMethod) -> None:
    """Raises `UsageError` if there are more than `MAX_ROWS` rows, or more than `MAX_POSITIONS` positions in them."""
    if not 1 <= rows <= MAX_ROWS or rows * method.window > MAX_POSITIONS:
        cause = f"{rows} rows with windows of {method.window} tokens are too many, or none"
        limits = f"at most {MAX_ROWS} rows and {MAX_POSITIONS} tokens in all windows"
        raise UsageError(cause, where="--rows", hint=f"use fewer rows: {limits}")


# ---- coded documents -------------------------------------------------------------------------------------------------


def coded_section(task: CodingTask, texts: Sequence[bytes], coded: EncodedText) -> BGZSection:
    """The section of coded documents. texts: the documents. Raises `UsageError` if too many of them are empty."""
    assert task.lengths is not None, "only former formats have no lengths"
    if task.documents > FREE_DOCUMENTS + 8 * len(coded.payload):
        cause = f"{task.documents:,} documents have {len(coded.payload):,} bytes together when they are coded"
        raise UsageError(cause, where="compress", hint="join empty documents with others")
    lengths = encode_lengths(np.array(task.lengths, np.int64))
    numbers = task.documents, task.tokens, sum(map(len, texts)), len(coded.checksums), len(lengths)
    head = b"".join(map(write_leb128, numbers)) + lengths + documents_digest(texts)
    return BGZSection(CODED, head + coded.checksums + coded.payload)


def parse_coded(codec: TextCodec, header: BGZHeader, body: bytes) -> CodedSection:
    """Parse a section of coded documents, before any memory or time is spent on them. Raises `CorruptFileError`.

    In a 24-bit table each of V tokens has a weight of at least 1, so even the most likely token costs about V / 2^24
    nats. This bounds the number of coded tokens by the size of the payload.
    """
    (documents, tokens, size, checksums, length), at = read_numbers(body, 0, 5)
    payload = len(body) - at - length - 8 - checksums
    most = (8 * payload + 64) / (codec.tokenizer.vocab * MIN_PROBABILITY)
    fits = payload >= 0 and payload % 4 == 0 and documents <= FREE_DOCUMENTS + 8 * payload
    if not (fits and documents <= tokens <= documents + most and payload <= 4 * tokens + 64):
        raise CorruptFileError(
            f"a section of {len(body):,} bytes contradicts its contents: {documents} documents, {tokens} tokens,"
            f" {length} bytes of lengths and {checksums} checksums"
        )
    lengths = decode_lengths(body[at : at + length], documents).tolist()
    if sum(lengths) != tokens or min(lengths, default=1) < 1:
        raise CorruptFileError(f"the lengths of {documents} documents sum to {sum(lengths)} tokens, not {tokens}")
    rows = num_rows(header.method, header.rows, documents)
    task = CodingTask(codec, header.arithmetic, header.method, documents, rows, tokens, lengths)
    at += length
    digest, end = body[at : at + 8], at + 8 + checksums
    return CodedSection(task, size, digest, body[at + 8 : end], body[end:])


def documents_digest(texts: Iterable[bytes]) -> bytes:
    """First 8 bytes of a SHA-256 of the documents and their lengths."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()[:8]
