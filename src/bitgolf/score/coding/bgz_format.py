"""The .bgz file: its header, written and read, and what a damaged or hostile file may say.

    magic and version | CRC-32 of all that follows | numbers (LEB128): method (0: windows of which the next two are
    window and stride; i: the artifact's i-th method), rows, documents, tokens (ends included), bytes, checksums
    | digest of the model, 8 bytes | SHA-256 of the documents, 8 bytes | checksums | payload

A checksum is a byte of the CRC-32 of all tables since the one before (`checksums`): where a decoder computes other
probabilities, it is stopped there and told where. Checksums stand after 64, 128, … 16,384 tokens, then every 16,384, and
at the end.
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
from bitgolf.score.coding.predictor import check_codable, is_codable
from bitgolf.score.methods import ContiguousScoring, ScoringMethod, SlidingScoring
from bitgolf.tokens.tokenizer import Tokenizer

MAGIC = b"BGZ\x03"  # the last byte is the version of the format
HEADER_NUMBERS = 6  # that every header has
MAX_ROWS, MAX_POSITIONS = 1 << 12, 1 << 20  # side by side, and in their windows together: what memory must hold
MIN_PROBABILITY = 2.0**-24  # of a probability, as tables round it


class TextCodec(NamedTuple):
    """What encoder and decoder share: the model, its tokenizer, its digest (8 bytes) and the artifact's methods."""

    model: LM
    tokenizer: Tokenizer
    digest: bytes
    methods: Sequence[Spec[ScoringMethod]]


class CodingTask(NamedTuple):
    """tokens: of all documents, their ends included."""

    codec: TextCodec
    method: ScoringMethod
    documents: int
    rows: int
    tokens: int


class BGZHeader(NamedTuple):
    """A file that was read. bytes: of all documents; digest: of the documents, see `documents_digest`."""

    task: CodingTask
    bytes: int
    digest: bytes
    checksums: bytes
    payload: bytes


def write_bgz(
    codec: TextCodec, numbers: Sequence[int], texts: Sequence[bytes], checksums: bytes, payload: bytes
) -> bytes:
    """The bytes of a file. numbers: of the method, rows, documents and tokens."""
    numbers = [*numbers, sum(map(len, texts)), len(checksums)]
    body = b"".join(map(write_leb128, numbers)) + codec.digest + documents_digest(texts) + checksums + payload
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def encode_method(codec: TextCodec, method: Spec[ScoringMethod]) -> list[int]:
    """The method as numbers of the header. Raises `UsageError` if a decoder would not know it."""
    made = method()
    check_codable(made)
    if method in codec.methods:
        return [codec.methods.index(method) + 1]
    if type(made) not in (ContiguousScoring, SlidingScoring) or made.rope_scaling or made.first_stride != made.window:
        raise UsageError(f"the artifact has no such method {made.name!r}, so a decoder would not know it")
    return [0, made.window, made.stride]


def _decode_method(codec: TextCodec, number: int, window: int, stride: int) -> ScoringMethod:
    if not number:
        if not 1 <= stride <= window <= 1 << 16:
            raise CorruptFileError(f"the compressed file names an impossible window ({window}, {stride})")
        return SlidingScoring(window=window, stride=stride)
    made = codec.methods[number - 1]() if number <= len(codec.methods) else None
    if made is None or not is_codable(made):
        raise CorruptFileError(
            f"the compressed file names method {number} of {len(codec.methods)}, or one without a code"
        )
    return made


def read_header(codec: TextCodec, data: bytes) -> BGZHeader:
    if data[:3] != MAGIC[:3] or len(data) < 8:
        raise CorruptFileError("this is not a file that bitgolf compressed, or it is cut short")
    if data[3] != MAGIC[3]:
        raise FormatVersionError("the compressed file", found=data[3], supported=MAGIC[3])
    if zlib.crc32(data[8:]).to_bytes(4, "little") != data[4:8]:
        raise CorruptFileError("the compressed file is damaged: its checksum does not match")
    numbers, at = list[int](), 8
    while len(numbers) < HEADER_NUMBERS + 2 * (numbers[:1] == [0]):
        number, at = read_leb128(data, at)
        numbers.append(number)
    *how, rows, documents, tokens, size, count = numbers
    digest, sha, checksums, payload = (data[a:b] for a, b in _spans(at, 8, 8, count, len(data)))
    if digest != codec.digest:
        raise BitgolfError(
            "the file was compressed with another model", where=f"model {digest.hex()}", hint="use that artifact"
        )
    method = _decode_method(codec, *(*how, 0, 0)[:3])
    task = CodingTask(codec, method, documents, rows, tokens)
    _check_counts(task, len(checksums), count, len(payload))
    return BGZHeader(task, size, sha, checksums, payload)


def _spans(start: int, *lengths: int) -> list[tuple[int, int]]:
    ends = np.cumsum([start, *lengths]).tolist()
    return list(pairwise(ends))


def _check_counts(task: CodingTask, checksums: int, expected: int, payload: int) -> None:
    """Refuse counts that no honest encoder writes, before any work is done for them.

    In a table of 24 bits every one of V tokens has at least 1, so the likeliest still costs about V / 2^24 nats.
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
        raise CorruptFileError("the compressed file's header does not fit its contents")
    try:
        check_size(task.rows, task.method)
    except UsageError as error:
        raise CorruptFileError(f"the compressed file's header does not fit its contents: {error.message}") from error


def num_rows(method: ScoringMethod, rows: int, documents: int) -> int:
    """Adapters have as many rows as their method says; otherwise no more are needed than there are documents."""
    return method.rows if isinstance(method, DocumentLoRA) else min(rows, documents)


def check_size(rows: int, method: ScoringMethod) -> None:
    if rows > MAX_ROWS or rows * method.window > MAX_POSITIONS:
        raise UsageError(f"{rows} rows with windows of {method.window} tokens are too many", hint="--rows with fewer")


def documents_digest(texts: Iterable[bytes]) -> bytes:
    """Of the documents and of where they end."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()[:8]
