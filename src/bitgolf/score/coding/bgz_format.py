"""The .bgz file format: writing a file, and reading a header that may be damaged or hostile.

    magic and version | CRC-32 of all that follows | arithmetic (LEB128, see `arithmetic`), and for the native one the
    length and the text of the fingerprint of the machine | numbers (LEB128): method (0: sliding windows, the next two
    numbers are window and stride; i: the artifact's i-th method), rows, documents, tokens (ends included), bytes,
    checksums | digest of the model, 8 bytes | SHA-256 of the documents, first 8 bytes | checksums | payload

Version 3 has no arithmetic and no fingerprint; it is native, and still read.

A checksum is one byte of the CRC-32 of the probability tables since the previous checksum (see `checksums`). It stops
a decoder that computes other probabilities and locates the difference. There is a checksum after 64, 128, … 16,384
tokens, then after every 16,384 tokens, and at the end.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bitgolf.config.spec import Spec
from bitgolf.errors import BitgolfError, CorruptFileError, FormatVersionError, UsageError
from bitgolf.model.lm import LM
from bitgolf.pack.frequency_tables import read_leb128, write_leb128
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.coding.arithmetic import ARITHMETICS, Arithmetic, NativeArithmetic, machine_fingerprint
from bitgolf.score.coding.predictor import check_codable, is_codable
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.tokens.tokenizer import Tokenizer

MAGIC = b"BGZ\x04"  # the last byte is the version of the format
NATIVE_VERSION = 3  # the version without arithmetic, which is read as well
MAX_FINGERPRINT = 100  # bytes
HEADER_NUMBERS = 6  # numbers of every header; method 0 has two more
MAX_ROWS, MAX_POSITIONS = 1 << 12, 1 << 20  # rows, and rows * window: they bound the memory that a file can demand
MIN_PROBABILITY = 2.0**-24  # of a token in the 24-bit tables


class TextCodec(NamedTuple):
    """What encoder and decoder share: the model, its tokenizer, its digest (8 bytes) and the artifact's methods."""

    model: LM
    tokenizer: Tokenizer
    digest: bytes
    methods: Sequence[Spec[ScoringMethod]]


class CodingTask(NamedTuple):
    """One file to code. documents: their number. rows: documents side by side. tokens: of all documents, with ends."""

    codec: TextCodec
    arithmetic: Arithmetic
    method: ScoringMethod
    documents: int
    rows: int
    tokens: int


class BGZHeader(NamedTuple):
    """The parsed contents of a file. bytes: of all documents. digest: of the documents, see `documents_digest`.

    fingerprint: of the machine that compressed it in native arithmetic; empty if it is not known or does not matter.
    """

    task: CodingTask
    fingerprint: str
    bytes: int
    digest: bytes
    checksums: bytes
    payload: bytes


def write_bgz(
    codec: TextCodec,
    arithmetic: Arithmetic,
    numbers: Sequence[int],
    texts: Sequence[bytes],
    checksums: bytes,
    payload: bytes,
) -> bytes:
    """The bytes of a file. numbers: those of the method, then rows, documents and tokens. texts: the documents."""
    numbers = [*numbers, sum(map(len, texts)), len(checksums)]
    body = _write_arithmetic(arithmetic) + b"".join(map(write_leb128, numbers))
    body += codec.digest + documents_digest(texts) + checksums + payload
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def _write_arithmetic(arithmetic: Arithmetic) -> bytes:
    if not isinstance(arithmetic, NativeArithmetic):
        return write_leb128(arithmetic.code)
    fingerprint = machine_fingerprint().encode()[:MAX_FINGERPRINT]
    return write_leb128(arithmetic.code) + write_leb128(len(fingerprint)) + fingerprint


def _read_arithmetic(data: bytes, at: int) -> tuple[Arithmetic, str, int]:
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


def encode_method(codec: TextCodec, method: Spec[ScoringMethod]) -> list[int]:
    """The method as numbers of the header. Raises `UsageError` if a decoder cannot reconstruct or code it."""
    made = method()
    check_codable(made)
    if method in codec.methods:
        return [codec.methods.index(method) + 1]
    if type(made) not in (ContiguousScoring, SlidingScoring) or made.rope_scaling or made.first_stride != made.window:
        cause = f"method {made.name!r} with these settings is not in the artifact, so a decoder cannot reconstruct it"
        raise UsageError(cause, where="method", hint="use a method of the artifact, contiguous or sliding")
    return [0, made.window, made.stride]


def _decode_method(codec: TextCodec, number: int, window: int, stride: int) -> ScoringMethod:
    if not number:
        if not 1 <= stride <= window <= 1 << 16:
            raise CorruptFileError(f"the compressed file has an invalid window of {window} tokens with stride {stride}")
        return SlidingScoring(window=window, stride=stride)
    made = codec.methods[number - 1]() if number <= len(codec.methods) else None
    if made is None or not is_codable(made):
        cause = f"the compressed file uses method {number} of the artifact, which has {len(codec.methods)} methods"
        raise CorruptFileError(cause if made is None else f"{cause}, but {made.name!r} cannot be decoded")
    return made


def read_header(codec: TextCodec, data: bytes) -> BGZHeader:
    """Parse a file. Raises `CorruptFileError` if it is damaged, `BitgolfError` if another model compressed it."""
    if data[:3] != MAGIC[:3] or len(data) < 8:
        cause = f"not a .bgz file, or truncated: {len(data)} bytes that begin with {data[:3].hex() or 'nothing'}"
        raise CorruptFileError(cause)
    if data[3] not in (NATIVE_VERSION, MAGIC[3]):
        raise FormatVersionError("the compressed file", found=data[3], supported=MAGIC[3])
    if zlib.crc32(data[8:]).to_bytes(4, "little") != data[4:8]:
        raise CorruptFileError("the compressed file is damaged: its CRC-32 checksum does not match its contents")
    numbers, arithmetic, fingerprint, at = list[int](), ARITHMETICS[0], "", 8
    if data[3] != NATIVE_VERSION:
        arithmetic, fingerprint, at = _read_arithmetic(data, at)
    while len(numbers) < HEADER_NUMBERS + 2 * (numbers[:1] == [0]):
        number, at = read_leb128(data, at)
        numbers.append(number)
    *how, rows, documents, tokens, size, count = numbers
    digest, sha, checksums, payload = (data[a:b] for a, b in _spans(at, 8, 8, count, len(data)))
    if digest != codec.digest:
        cause = f"the file was compressed with another model: digest {digest.hex()}, not {codec.digest.hex()}"
        raise BitgolfError(cause, hint="use the artifact that the file was compressed with")
    method = _decode_method(codec, *(*how, 0, 0)[:3])
    task = CodingTask(codec, arithmetic, method, documents, rows, tokens)
    _check_counts(task, len(checksums), count, len(payload))
    return BGZHeader(task, fingerprint, size, sha, checksums, payload)


def _spans(start: int, *lengths: int) -> list[tuple[int, int]]:
    ends = np.cumsum([start, *lengths]).tolist()
    return list(pairwise(ends))


def _check_counts(task: CodingTask, checksums: int, expected: int, payload: int) -> None:
    """Raises `CorruptFileError` for counts that `compress` cannot have written, before any memory or time is spent.

    In a 24-bit table each of V tokens has a weight of at least 1, so even the most likely token costs about V / 2^24
    nats. This bounds the number of tokens by the size of the payload.
    """
    most = (8 * payload + 64) / (task.codec.tokenizer.vocab * MIN_PROBABILITY)
    fits = (
        checksums == expected
        and payload % 4 == 0
        and task.documents <= task.tokens <= most
        and bool(task.documents) == bool(task.tokens)
        and payload <= 4 * task.tokens + 64
        and bool(task.documents) <= task.rows == num_rows(task.method, task.rows, task.documents)
    )
    if not fits:
        raise CorruptFileError(
            f"the compressed file's header contradicts its contents: {task.documents} documents, {task.tokens} tokens,"
            f" {task.rows} rows and {expected} checksums for a payload of {payload} bytes and {checksums} checksums"
        )
    try:
        check_size(task.rows, task.method)
    except UsageError as error:
        raise CorruptFileError(f"the compressed file's header is invalid: {error.message}") from error


def num_rows(method: ScoringMethod, rows: int, documents: int) -> int:
    """Rows to use: those of the method for `DocumentLoRA`, otherwise at most one per document."""
    return method.rows if isinstance(method, DocumentLoRA) else min(rows, documents)


def check_size(rows: int, method: ScoringMethod) -> None:
    """Raises `UsageError` if there are more than `MAX_ROWS` rows, or more than `MAX_POSITIONS` positions in them."""
    if rows > MAX_ROWS or rows * method.window > MAX_POSITIONS:
        cause = f"{rows} rows with windows of {method.window} tokens are too many"
        limits = f"at most {MAX_ROWS} rows and {MAX_POSITIONS} tokens in all windows"
        raise UsageError(cause, where="--rows", hint=f"use fewer rows: {limits}")


def documents_digest(texts: Iterable[bytes]) -> bytes:
    """First 8 bytes of a SHA-256 of the documents and their lengths."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()[:8]
