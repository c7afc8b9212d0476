"""Reading .bgz files of versions 3 and 4, which hold one text of which the ends of documents are coded.

    magic and version | CRC-32 of all that follows | arithmetic, as in version 5 | numbers (LEB128): method, as in version
    5, rows, documents, tokens (ends included), bytes, checksums | digest of the model, 8 bytes | SHA-256 of the
    documents, first 8 bytes | checksums | payload

Version 3 has no arithmetic and no fingerprint; it is native.
"""

from __future__ import annotations

import zlib

from bitgolf.errors import CorruptFileError
from bitgolf.pack.frequency_tables import read_leb128
from bitgolf.score.adapt.document_lora import DocumentLoRA
from bitgolf.score.coding.arithmetic import ARITHMETICS
from bitgolf.score.coding.bgz_format import (
    BGZHeader,
    CodedSection,
    check_memory,
    check_model,
    decode_method,
    read_arithmetic,
    read_numbers,
)
from bitgolf.score.coding.coded_text import MIN_PROBABILITY, CodingTask, TextCodec
from bitgolf.score.coding.open_predictor import has_plain_windows
from bitgolf.score.methods import ScoringMethod

VERSIONS = 3, 4


def read_former(codec: TextCodec, data: bytes) -> tuple[BGZHeader, CodedSection]:
    """Parse a file. Raises `CorruptFileError` if it is damaged, `BitgolfError` if another model compressed it."""
    if zlib.crc32(data[8:]).to_bytes(4, "little") != data[4:8]:
        raise CorruptFileError("the compressed file is damaged: its CRC-32 checksum does not match its contents")
    arithmetic, fingerprint, at = ARITHMETICS[0], "", 8
    if data[3] != VERSIONS[0]:
        arithmetic, fingerprint, at = read_arithmetic(data, at)
    number, at = read_leb128(data, at)
    windows, at = read_numbers(data, at, 0 if number else 2)
    (rows, documents, tokens, size, checksums), at = read_numbers(data, at, 5)
    check_model(codec, data[at : at + 8])
    method = decode_method(codec, number, windows)
    _check_codable(method)
    task = CodingTask(codec, arithmetic, method, documents, rows, tokens, None)
    end = at + 16 + checksums
    section = CodedSection(task, size, data[at + 8 : at + 16], data[at + 16 : end], data[end:])
    _check_counts(section, checksums)
    return BGZHeader(arithmetic, fingerprint, method, rows), section


def _check_codable(method: ScoringMethod) -> None:
    """Raises `CorruptFileError` for a method that these versions could not code. They ignored scaled positions."""
    lora = isinstance(method, DocumentLoRA) and not method.cross_document
    if method.full_windows or not (lora or has_plain_windows(method)):
        raise CorruptFileError(f"the compressed file uses method {method.name!r}, which its format cannot code")
    method.rope_scaling = None


def _check_counts(section: CodedSection, checksums: int) -> None:
    """Raises `CorruptFileError` for counts that no encoder can have written, before any memory or time is spent."""
    task, payload = section.task, len(section.payload)
    most = (8 * payload + 64) / (task.codec.tokenizer.vocab * MIN_PROBABILITY)
    method, documents = task.method, task.documents
    rows = method.rows if isinstance(method, DocumentLoRA) else min(task.rows, documents)
    fits = (
        len(section.checksums) == checksums
        and payload % 4 == 0
        and documents <= task.tokens <= most
        and bool(documents) == bool(task.tokens)
        and payload <= 4 * task.tokens + 64
        and bool(documents) <= task.rows == rows
    )
    if not fits:
        raise CorruptFileError(
            f"the compressed file's header contradicts its contents: {documents} documents, {task.tokens} tokens,"
            f" {task.rows} rows and {checksums} checksums for a payload of {payload} bytes and"
            f" {len(section.checksums)} checksums"
        )
    if documents:
        check_memory(task.rows, method)
