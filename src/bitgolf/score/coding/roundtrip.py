"""The proof in small: a held-out file compressed and restored by two fresh processes, beside general compressors."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import zstandard

from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError
from bitgolf.files import read_json

Verb = Callable[..., dict[str, Any]]


@register
class RoundTrip:
    """Compress the held-out document nearest to `bytes` in size, restore it, compare every byte."""

    def __init__(self, *, bytes: int = 16_000) -> None:
        self.bytes = bytes

    def prove(self, folder: Path, data: Path, verb: Verb) -> dict[str, Any]:
        """`verb` runs a verb of this program in a process of its own and returns its document."""
        raw = (data / "val.raw").read_bytes()
        document = self._choose(raw, read_json(data / "val.lengths.json"))
        source, coded, restored = (folder / f"proof.{suffix}" for suffix in ("txt", "bgz", "restored"))
        source.write_bytes(document)
        artifact = str(folder / "artifact.bg")
        result = verb("compress", artifact, str(source), str(coded))
        back = verb("decompress", artifact, str(coded), str(restored))
        if restored.read_bytes() != document:
            raise BitgolfError("the restored file differs from the one compressed", place=str(restored))
        return {**result, "seconds_back": back["seconds"], "restored": True, "others": general_compressors(raw)}

    def _choose(self, raw: bytes, lengths: list[int]) -> bytes:
        best = min(range(len(lengths)), key=lambda i: (abs(lengths[i] - self.bytes), i))
        start = sum(lengths[:best])
        return raw[start : start + lengths[best]]


def general_compressors(raw: bytes) -> dict[str, float]:
    """Bits per byte of all held-out text in one file, through compressors at their strongest usual settings."""
    coded = {
        "xz -9e": lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME),
        "zstd -19": zstandard.ZstdCompressor(level=19).compress(raw),
        "brotli 11": brotli.compress(raw, quality=11),
    }
    return {name: 8 * len(data) / max(len(raw), 1) for name, data in coded.items()}
