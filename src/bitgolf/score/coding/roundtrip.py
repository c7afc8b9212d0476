"""A compression round trip of one held-out document, with general-purpose compressors for comparison."""

from __future__ import annotations

import lzma
from pathlib import Path

import brotli
import zstandard

from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json
from bitgolf.score.result import CompressFile, DecompressFile, RoundTripResult


@register
class CompressionRoundTrip:
    """Compress the held-out document whose size is nearest to `document_bytes`, decompress it, compare every byte."""

    def __init__(self, *, document_bytes: int = 16_000) -> None:
        self.document_bytes = document_bytes

    def run(self, folder: Path, data: Path, compress: CompressFile, decompress: DecompressFile) -> RoundTripResult:
        """Write `roundtrip.txt`, `.bgz` and `.restored` to `folder`, and return the sizes.

        data: folder of the shards, with the validation text. compress, decompress: with the run's artifact, each in its
        own process, so that only the file passes from one to the other. Raises `BitgolfError` if a byte differs.
        """
        raw = (data / "val.raw").read_bytes()
        document = self._choose(raw, read_json(data / "val.lengths.json"))
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
        )

    def _choose(self, raw: bytes, lengths: list[int]) -> bytes:
        best = min(range(len(lengths)), key=lambda i: (abs(lengths[i] - self.document_bytes), i))
        start = sum(lengths[:best])
        return raw[start : start + lengths[best]]


def general_compressor_bpb(raw: bytes) -> dict[str, float]:
    """Bits per byte of the held-out text as one file, by compressor, each at its strongest common setting."""
    coded = {
        "xz -9e": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME),
        "zstd -19": zstandard.ZstdCompressor(level=19).compress(raw),
        "brotli 11": brotli.compress(raw, quality=11),
    }
    return {name: 8 * len(data) / max(len(raw), 1) for name, data in coded.items()}
