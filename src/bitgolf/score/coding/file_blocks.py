"""Compression of files of any kind and size, block by block: what the model would not shorten is stored."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.coding.bgz_format import END, STORED, BGZSection, SectionWriter
from bitgolf.score.coding.block_threads import ByteProgress, SharedProgress, can_share_model, in_order, no_progress
from bitgolf.score.coding.coded_text import TextCodec
from bitgolf.score.coding.compress import Encoder
from bitgolf.tokens.tokenizer import Ids

MIN_PART_BYTES = 16_384  # a part of a block is a document, coded in a row of its own
LEAST_CHECKED = 4_096  # bytes of a block that is not coded if DEFLATE does not shorten it


class FileSizes(NamedTuple):
    """What became of a file. bits: predicted, 8 for each stored byte. stored: bytes that the model did not shorten."""

    bytes_in: int
    bytes_out: int
    bits: float
    stored: int
    arithmetic: str


def block_bytes(encoder: Encoder) -> int:
    """Bytes of a block, in which each row has a document."""
    return encoder.rows * MIN_PART_BYTES


def compress_file(
    encoder: Encoder,
    blocks: Iterable[bytes],
    target: BinaryIO,
    *,
    threads: int = 1,
    progress: ByteProgress = no_progress,
) -> FileSizes:
    """Compress a file that is given in blocks of `block_bytes`. threads: blocks that are coded at a time."""
    writer, shared = SectionWriter(target), SharedProgress(progress)
    writer.add(encoder.header)

    def encode(block: bytes) -> tuple[int, BGZSection, float]:
        section, bits = encode_block(encoder, block, shared.of_block(len(block)))
        shared.finish(len(block), bits)
        return len(block), section, bits

    size, total, stored = 0, 0.0, 0
    threads = threads if can_share_model(encoder.method) else 1
    for length, section, bits in in_order(encode, blocks, threads, shared.stop):
        writer.add(section)
        size, total, stored = size + length, total + bits, stored + length * (section.kind == STORED)
    writer.add(BGZSection(END, b""))
    return FileSizes(size, writer.written, total, stored, encoder.arithmetic.name)


def encode_block(encoder: Encoder, block: bytes, progress: ProgressCallback | None = None) -> tuple[BGZSection, float]:
    """The section of a block and its bits: coded, or stored if that is not longer."""
    stored = BGZSection(STORED, block), 8.0 * len(block)
    documents = documents_of_block(encoder, block)
    if documents is None:
        return stored
    section, bits, _ = encoder.encode(documents, progress)
    return (section, bits) if len(section.body) < len(block) else stored


def documents_of_block(encoder: Encoder, block: bytes) -> list[Ids] | None:
    """The documents of a block as they are coded; None for a block that is stored without an attempt.

    That is one which DEFLATE does not shorten, as models of text then do not, or whose tokens do not restore it.
    """
    if len(block) >= LEAST_CHECKED and len(zlib.compress(block, 1)) >= len(block):
        return None
    return split_block(encoder.codec, block, encoder.rows)


def split_block(codec: TextCodec, block: bytes, rows: int) -> list[Ids] | None:
    """The tokens of a block as up to `rows` documents, cut at a line end if there is one nearby; None if they are lossy."""
    count = max(1, min(rows, len(block) // MIN_PART_BYTES))
    near = [len(block) * i // count for i in range(1, count)]
    cuts = [0, *(block.find(b"\n", at, at + MIN_PART_BYTES // 4) + 1 or at for at in near), len(block)]
    parts = [block[a:b] for a, b in pairwise(cuts)]
    documents = codec.tokenizer.encode_documents(parts)
    bos = codec.model.bos
    restored = all(codec.tokenizer.decode(d) == part for d, part in zip(documents, parts, strict=True))
    return documents if restored and not any((d == bos).any() for d in documents) else None
