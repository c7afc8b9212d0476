"""Lossless compression with a model, of documents and of files of any kind and size.

The size of compressed documents proves a score: the predicted bits are those of the referee's score with the same
method; plain windows have isolated documents. The model runs on the CPU in float32, on whatever device it was trained
or scored. A file is cut into blocks, so memory does not depend on its size; a block that the model would not shorten is
stored. The file format is described in `bgz_format`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import numpy as np

from bitgolf.config.spec import Spec
from bitgolf.errors import CorruptFileError, FormatVersionError
from bitgolf.score.callbacks import ProgressCallback
from bitgolf.score.coding.arithmetic import NativeArithmetic, choose_arithmetic, machine_fingerprint
from bitgolf.score.coding.bgz_format import (
    CODED,
    END,
    MAGIC,
    STORED,
    BGZHeader,
    BGZSection,
    CodedSection,
    SectionWriter,
    check_rows,
    coded_section,
    documents_digest,
    header_section,
    parse_coded,
    parse_header,
    read_sections,
)
from bitgolf.score.coding.coded_text import CodingTask, TextCodec, decode_text, encode_text
from bitgolf.score.coding.former_format import VERSIONS, read_former
from bitgolf.score.coding.open_predictor import num_rows
from bitgolf.score.methods import ScoringMethod
from bitgolf.tokens.tokenizer import Ids

BLOCK_BYTES = 1 << 20  # of a file
MIN_PART_BYTES = 16_384  # a part of a block is a document, coded in a row of its own
ROWS = 64
LEAST_CHECKED = 4_096  # bytes of a block that is not coded if DEFLATE does not shorten it


class Compressed(NamedTuple):
    """A compressed file. bits: the predicted size, sum of -log2 p over all tokens and ends. tokens: ends included."""

    data: bytes
    bits: float
    tokens: int
    arithmetic: str


class FileSizes(NamedTuple):
    """What became of a file. bits: predicted, 8 for each stored byte. stored: bytes that the model did not shorten."""

    bytes_in: int
    bytes_out: int
    bits: float
    stored: int
    arithmetic: str


ByteProgress = Callable[[int, float], None]
"""Called with the bytes of the file that are done and their bits so far."""


class Encoder:
    """Encodes texts, lists of documents, to sections of one file.

    rows: documents coded side by side. portable: the arithmetic, see `choose_arithmetic`. Raises `UsageError` if a
    decoder cannot reconstruct the method, if it has no form in this arithmetic, or if there are too many rows.
    """

    def __init__(
        self, codec: TextCodec, method: Spec[ScoringMethod], *, rows: int = ROWS, portable: bool | None = None
    ) -> None:
        self.codec, self.method, self.rows = codec, method(), rows
        self.arithmetic = choose_arithmetic(self.method, portable)
        check_rows(num_rows(self.method, rows, rows), self.method)
        self.header = header_section(codec, self.arithmetic, method, rows)

    def encode(
        self, documents: Sequence[Ids], progress: ProgressCallback | None = None
    ) -> tuple[BGZSection, float, int]:
        """The section of documents (token ids without BOS), its predicted bits, and its tokens with ends.

        Raises `UsageError` if a document has BOS, or if too many documents are empty.
        """
        task = self.task(documents)
        coded = encode_text(task, documents, progress)
        texts = [self.codec.tokenizer.decode(document) for document in documents]
        return coded_section(task, texts, coded), coded.bits, task.tokens

    def task(self, documents: Sequence[Ids]) -> CodingTask:
        """The task of coding these documents."""
        lengths, rows = [len(document) + 1 for document in documents], num_rows(self.method, self.rows, len(documents))
        return CodingTask(self.codec, self.arithmetic, self.method, len(documents), rows, sum(lengths), lengths)


def compress(
    codec: TextCodec,
    documents: Sequence[Ids],
    *,
    method: Spec[ScoringMethod],
    rows: int = ROWS,
    portable: bool | None = None,
    progress: ProgressCallback | None = None,
) -> Compressed:
    """Compress documents (token ids without BOS). `decompress` restores their bytes and borders with the same artifact.

    Arguments and errors are those of `Encoder`.
    """
    encoder, target, bits, tokens = Encoder(codec, method, rows=rows, portable=portable), io.BytesIO(), 0.0, 0
    writer = SectionWriter(target)
    writer.add(encoder.header)
    if documents:
        section, bits, tokens = encoder.encode(documents, progress)
        writer.add(section)
    writer.add(BGZSection(END, b""))
    return Compressed(target.getvalue(), bits, tokens, encoder.arithmetic.name)


def compress_file(
    encoder: Encoder, blocks: Iterable[bytes], target: BinaryIO, progress: ByteProgress = lambda done, bits: None
) -> FileSizes:
    """Compress a file that is given in blocks, one after the other."""
    writer, done, bits, stored = SectionWriter(target), 0, 0.0, 0
    writer.add(encoder.header)
    for block in blocks:
        section, own = encode_block(encoder, block, _of_block(progress, done, bits, len(block)))
        writer.add(section)
        done, bits, stored = done + len(block), bits + own, stored + len(block) * (section.kind == STORED)
        progress(done, bits)
    writer.add(BGZSection(END, b""))
    return FileSizes(done, writer.written, bits, stored, encoder.arithmetic.name)


def encode_block(encoder: Encoder, block: bytes, progress: ProgressCallback | None = None) -> tuple[BGZSection, float]:
    """The section of a block and its bits: coded, or stored if that is not longer.

    A block is stored without an attempt if DEFLATE does not shorten it, as models of text then do not, or if its tokens
    do not restore it.
    """
    stored = BGZSection(STORED, block), 8.0 * len(block)
    if len(block) >= LEAST_CHECKED and len(zlib.compress(block, 1)) >= len(block):
        return stored
    documents = split_block(encoder.codec, block)
    if documents is None:
        return stored
    section, bits, _ = encoder.encode(documents, progress)
    return (section, bits) if len(section.body) < len(block) else stored


def split_block(codec: TextCodec, block: bytes) -> list[Ids] | None:
    """The tokens of a block as up to `ROWS` documents, cut at a line end if there is one nearby; None if they are lossy."""
    count = max(1, min(ROWS, len(block) // MIN_PART_BYTES))
    near = [len(block) * i // count for i in range(1, count)]
    cuts = [0, *(block.find(b"\n", at, at + MIN_PART_BYTES // 4) + 1 or at for at in near), len(block)]
    parts = [block[a:b] for a, b in pairwise(cuts)]
    documents = codec.tokenizer.encode_documents(parts)
    bos = codec.model.bos
    restored = all(codec.tokenizer.decode(d) == part for d, part in zip(documents, parts, strict=True))
    return documents if restored and not any((d == bos).any() for d in documents) else None


# ---- decompression ---------------------------------------------------------------------------------------------------


class CompressedFile:
    """A compressed file that was read once and is not damaged. size: of the file. bytes: of what was compressed.

    source: seekable, at any position. Raises `CorruptFileError` if the file is damaged or cut, and `BitgolfError` if
    another model compressed it.
    """

    def __init__(self, codec: TextCodec, source: BinaryIO) -> None:
        self.codec, self._source = codec, source
        self.size = source.seek(0, io.SEEK_END)
        source.seek(0)
        magic = source.read(len(MAGIC))
        if magic[:3] != MAGIC[:3] or self.size < 8:
            cause = f"not a .bgz file, or truncated: {self.size} bytes that begin with {magic[:3].hex() or 'nothing'}"
            raise CorruptFileError(cause)
        if magic[3] not in (*VERSIONS, MAGIC[3]):
            raise FormatVersionError("the compressed file", found=magic[3], supported=MAGIC[3])
        self._former: CodedSection | None = None
        if magic[3] in VERSIONS:
            source.seek(0)
            self.header, self._former = read_former(codec, source.read())
            self.bytes = self._former.bytes
        else:
            self.header, self.bytes = self._check()

    def _check(self) -> tuple[BGZHeader, int]:
        """Check all sections. Returns the header, and the bytes that all sections together restore."""
        sections, size = read_sections(self._source, self.size), 0
        header = parse_header(self.codec, next(sections).body)
        for section in sections:
            if section.kind == CODED:
                size += parse_coded(self.codec, header, section.body).bytes
            elif section.kind == STORED:
                size += len(section.body)
        return header, size

    def texts(self, progress: ByteProgress = lambda done, bits: None) -> Iterator[list[bytes]]:
        """Yield the documents of one section after the other.

        Raises `CorruptFileError` if they are not the ones that were compressed, and `BitgolfError` if this machine
        computes other probabilities. Wrong bytes are never returned.
        """
        if self._former:
            yield self._decoded(self._former, 0, progress)
            return
        done = 0
        for section in read_sections(self._source, self.size):
            if section.kind == CODED:
                yield (found := self._decoded(parse_coded(self.codec, self.header, section.body), done, progress))
                done += sum(map(len, found))
            elif section.kind == STORED:
                yield [section.body]
                done += len(section.body)
            progress(done, 0.0)

    def _decoded(self, section: CodedSection, done: int, progress: ByteProgress) -> list[bytes]:
        """The documents of a section. done: bytes before it."""
        hint, codec = _hint(self.header), self.codec
        report = _of_block(progress, done, 0.0, section.bytes)
        ids = decode_text(section.task, section.checksums, section.payload, hint, report)
        texts = [codec.tokenizer.decode(np.array(document, np.int32)) for document in ids]
        if sum(map(len, texts)) != section.bytes or documents_digest(texts) != section.digest:
            size = sum(map(len, texts))
            cause = f"the decoded text ({size:,} bytes) is not the one that was compressed ({section.bytes:,} bytes)"
            raise CorruptFileError(f"{cause}; nothing was written")
        return texts


def decompress(codec: TextCodec, data: bytes, progress: ByteProgress = lambda done, bits: None) -> list[bytes]:
    """The documents that were compressed. Raises the errors of `CompressedFile` and its `texts`."""
    file = CompressedFile(codec, io.BytesIO(data))
    return [text for texts in file.texts(progress) for text in texts]


def _of_block(progress: ByteProgress, done: int, bits: float, size: int) -> ProgressCallback:
    """A callback for a block of `size` bytes, before which `done` bytes had `bits` bits."""
    return lambda tokens, count, own: progress(done + size * tokens // max(count, 1), bits + own)


def _hint(header: BGZHeader) -> str:
    """What to do if this machine computes other probabilities than the one that compressed a file."""
    if not isinstance(header.arithmetic, NativeArithmetic):
        return "the model or the file was changed: in portable arithmetic every machine computes the same"
    if not header.fingerprint or header.fingerprint == machine_fingerprint():
        return "decompress with the same torch version on the same kind of processor"
    return f"decompress with {header.fingerprint} (here: {machine_fingerprint()}), or compress with --portable"
