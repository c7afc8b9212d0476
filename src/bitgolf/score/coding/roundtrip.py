"""A compression round trip of one held-out document, with general-purpose compressors for comparison."""

from __future__ import annotations

import lzma
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import brotli
import zstandard

from bitgolf.config.ranges import ByteCount
from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError, CorruptFileError
from bitgolf.score.result import CompressFile, DecompressFile, RoundTripResult
from bitgolf.score.text import TokenizedText
from bitgolf.tokens.tokenizer import Tokenizer

COMPARED_BYTES = 8_000_000
"""Length of the start of the held-out text that is read: the slowest compressor codes about 0.5 MB/s."""


@register
class CompressionRoundTrip:
    """Compress the held-out document whose size is nearest to `document_bytes`, decompress it, compare every byte.

    General-purpose compressors code the same start of the held-out text for comparison (`COMPARED_BYTES`).
    """

    def __init__(self, *, document_bytes: ByteCount = 16_000) -> None:
        self.document_bytes = document_bytes

    def run(
        self, folder: Path, documents: Sequence[bytes], compress: CompressFile, decompress: DecompressFile
    ) -> RoundTripResult:
        """Write `roundtrip.txt`, `.bgz` and `.restored` to `folder`, and return the sizes.

        documents: the start of the held-out text, at least one document. compress, decompress: with the run's artifact,
        each in its own process, so that only the file passes from one to the other. Raises `BitgolfError` if a byte
        differs.
        """
        raw, document = b"".join(documents), min(documents, key=lambda d: abs(len(d) - self.document_bytes))
        source, coded, restored = (folder / f"roundtrip.{suffix}" for suffix in ("txt", "bgz", "restored"))
        source.write_bytes(document)
        there, back = compress(source, coded), decompress(coded, restored)
        if restored.read_bytes() != document:
            sizes = f"{restored.stat().st_size:,} bytes, original {len(document):,} bytes"
            raise BitgolfError(f"the decompressed file differs from the original ({sizes})", where=str(restored))
        return RoundTripResult(
            bytes_in=there.bytes_in,
            bytes_out=there.bytes_out,
            bpb_coded=there.bpb_coded,
            bpb_predicted=there.bpb_predicted,
            method=there.method,
            seconds=there.seconds,
            decompress_seconds=back.seconds,
            restored=True,
            general_compressors_bpb=general_compressor_bpb(raw),
            general_compressors_bytes=len(raw),
        )


def decoded_documents(text: TokenizedText, tokenizer: Tokenizer, size: int = COMPARED_BYTES) -> Iterator[bytes]:
    """Yield the text of each document as its tokens decode, until there are at least `size` bytes.

    A document that does not decode is left out: the end of a published shard may cut one between two case operators.
    """
    total = 0
    for start, stop in text.documents():
        if total >= size:
            return
        with suppress(CorruptFileError):
            document = tokenizer.decode(text.tokens[start + 1 : stop])
            total += len(document)
            yield document


def general_compressor_bpb(raw: bytes) -> dict[str, float]:
    """Bits per byte of a text as one file, by compressor, each at its strongest common setting."""
    coded = {
        "xz -9e": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME),
        "zstd -19": zstandard.ZstdCompressor(level=19).compress(raw),
        "brotli 11": brotli.compress(raw, quality=11),
    }
    return {name: 8 * len(data) / max(len(raw), 1) for name, data in coded.items()}
