"""A compression round trip: a held-out document is compressed and decompressed, beside general compressors."""

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
    """Compress the held-out document nearest to `document_bytes` in size, decompress it, and compare every byte."""

    def __init__(self, *, document_bytes: int = 16_000) -> None:
        self.document_bytes = document_bytes

    def run(self, folder: Path, data: Path, compress: CompressFile, decompress: DecompressFile) -> RoundTripResult:
        """Leaves `roundtrip.txt`, `.bgz` and `.restored` in `folder`; raises `BitgolfError` if they do not agree.

        data: folder of the shards, with the validation text. compress, decompress: with the artifact of the run, each in
        a process of its own, so that nothing but the file passes from one to the other.
        """
        raw = (data / "val.raw").read_bytes()
        document = self._choose(raw, read_json(data / "val.lengths.json"))
        source, coded, restored = (folder / f"roundtrip.{suffix}" for suffix in ("txt", "bgz", "restored"))
        source.write_bytes(document)
        there, back = compress(source, coded), decompress(coded, restored)
        if restored.read_bytes() != document:
            raise BitgolfError("the restored file differs from the one compressed", where=str(restored))
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
    """Bits per byte of all held-out text in one file, through compressors at their strongest usual settings."""
    coded = {
        "xz -9e": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME),
        "zstd -19": zstandard.ZstdCompressor(level=19).compress(raw),
        "brotli 11": brotli.compress(raw, quality=11),
    }
    return {name: 8 * len(data) / max(len(raw), 1) for name, data in coded.items()}
