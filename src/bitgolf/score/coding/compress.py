"""Lossless compression of documents with a model, and decompression.

The size of compressed documents proves a score: the predicted bits are those of the referee's score with the same
method; plain windows have isolated documents. The model runs on the CPU in float32, on whatever device it was trained
or scored. `file_blocks` has the compression of files of any kind and size, `bgz_format` the file format.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
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
from bitgolf.score.coding.block_threads import ByteProgress, SharedProgress, can_share_model, in_order, no_progress
from bitgolf.score.coding.coded_text import CodingTask, TextCodec, decode_text, encode_text
from bitgolf.score.coding.former_format import VERSIONS, read_former
from bitgolf.score.coding.open_predictor import default_rows, num_rows
from bitgolf.score.methods import ScoringMethod
from bitgolf.tokens.tokenizer import Ids


class Compressed(NamedTuple):
    """A compressed file. bits: the predicted size, sum of -log2 p over all tokens and ends. tokens: ends included."""

    data: bytes
    bits: float
    tokens: int
    arithmetic: str


class Encoder:
    """Encodes texts, lists of documents, to sections of one file.

    rows: most documents coded side by side, None for `default_rows`. portable: the arithmetic, see
    `choose_arithmetic`. Raises `UsageError` if a decoder cannot reconstruct the method, if it has no form in this arithmetic, or if there are too many rows.
    """

    def __init__(
        self, codec: TextCodec, method: Spec[ScoringMethod], *, rows: int | None = None, portable: bool | None = None
    ) -> None:
        self.codec, self.method = codec, method()
        self.arithmetic = choose_arithmetic(self.method, portable)
        self.rows = rows = default_rows(codec.model, self.method.window) if rows is None else rows
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
    rows: int | None = None,
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

    def texts(self, threads: int = 1, progress: ByteProgress = no_progress) -> Iterator[list[bytes]]:
        """Yield the documents of one section after the other. threads: sections that are decoded at a time.

        Raises `CorruptFileError` if they are not the ones that were compressed, and `BitgolfError` if this machine
        computes other probabilities. Wrong bytes are never returned.
        """
        shared = SharedProgress(progress)
        if self._former:
            yield self._decoded(self._former, shared)
            return

        def restored(section: BGZSection) -> list[bytes]:
            if section.kind == CODED:
                return self._decoded(parse_coded(self.codec, self.header, section.body), shared)
            shared.finish(len(section.body), 0.0)
            return [section.body] if section.kind == STORED else []

        sections = read_sections(self._source, self.size)
        threads = threads if can_share_model(self.header.method) else 1
        yield from filter(None, in_order(restored, sections, threads, shared.stop))

    def _decoded(self, section: CodedSection, progress: SharedProgress) -> list[bytes]:
        """The documents of a section."""
        hint, codec = _hint(self.header), self.codec
        report = progress.of_block(section.bytes)
        ids = decode_text(section.task, section.checksums, section.payload, hint, report)
        progress.finish(section.bytes, 0.0)
        texts = [codec.tokenizer.decode(np.array(document, np.int32)) for document in ids]
        if sum(map(len, texts)) != section.bytes or documents_digest(texts) != section.digest:
            size = sum(map(len, texts))
            cause = f"the decoded text ({size:,} bytes) is not the one that was compressed ({section.bytes:,} bytes)"
            raise CorruptFileError(f"{cause}; nothing was written")
        return texts


def decompress(codec: TextCodec, data: bytes, progress: ByteProgress = no_progress) -> list[bytes]:
    """The documents that were compressed. Raises the errors of `CompressedFile` and its `texts`."""
    file = CompressedFile(codec, io.BytesIO(data))
    return [text for texts in file.texts(progress=progress) for text in texts]


def _hint(header: BGZHeader) -> str:
    """What to do if this machine computes other probabilities than the one that compressed a file."""
    if not isinstance(header.arithmetic, NativeArithmetic):
        return "the model or the file was changed: in portable arithmetic every machine computes the same"
    if not header.fingerprint or header.fingerprint == machine_fingerprint():
        return "decompress with the same torch version on the same kind of processor"
    return f"decompress with {header.fingerprint} (here: {machine_fingerprint()}), or compress with --portable"
