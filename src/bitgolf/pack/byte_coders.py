"""General-purpose compressors as coders of arrays: raw bytes, deflate, LZMA, Brotli, Zstandard.

Slow settings take about a second for a megabyte. `estimate_size` predicts what they make of large inputs from a sample:
the rate of the sample is within 0.1 % of the whole's for Brotli and Zstandard, and too low by up to 1.5 % for LZMA.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from bitgolf.config.registry import register
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack import byte_planes
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coders import Coder
from bitgolf.pack.optional_modules import import_compressor

SAMPLE_BYTES, CHUNK_BYTES = 1 << 18, 1 << 14
REPEAT_TOLERANCE = 0.99
"""Smallest ratio of the whole's rate to the sample's, both by a fast compressor, at which the sample counts as typical."""


class ByteCoder(Coder):
    """A general-purpose compressor over bytes; `shuffle` puts the byte planes of wider types one after the other."""

    def __init__(self, *, shuffle: bool = True) -> None:
        self.shuffle = shuffle

    @property
    def slow(self) -> bool:
        """Whether it takes about a second or more for a megabyte at this setting."""
        return False

    @abstractmethod
    def compress(self, raw: bytes) -> bytes: ...

    @abstractmethod
    def decompress(self, data: bytes, size: int) -> bytes:
        """At most `size` bytes, and not many more are ever produced. More, or unread input, is a `CorruptFileError`."""

    def encode(self, symbols: Array) -> bytes:
        return self.compress(self._raw(symbols))

    def estimate(self, arrays: Sequence[Array]) -> float | None:
        if not self.slow or sum(array.nbytes for array in arrays) <= SAMPLE_BYTES:
            return None
        return estimate_size(self.compress, self._raw(np.concatenate([array.reshape(-1) for array in arrays])))

    def _raw(self, symbols: Array) -> bytes:
        bytes_of = byte_planes.split(symbols)
        return (bytes_of if self.shuffle else bytes_of.T).tobytes()

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        size = count * dtype.itemsize
        raw = self.decompress(data, size)
        if len(raw) != size:
            raise CorruptFileError(f"holds {len(raw)} bytes, expected {size}")
        flat = np.frombuffer(raw, np.uint8)
        if self.shuffle:
            return byte_planes.join(flat.reshape(dtype.itemsize, count), dtype)
        return byte_planes.join(flat.reshape(count, dtype.itemsize).T, dtype)


@register
class Raw(ByteCoder):
    """The bytes themselves: for what does not compress."""

    name: ClassVar[str] = "raw"

    def __init__(self) -> None:
        super().__init__(shuffle=False)

    def compress(self, raw: bytes) -> bytes:
        return raw

    def decompress(self, data: bytes, size: int) -> bytes:
        return data


@register
class Zlib(ByteCoder):
    """Raw deflate (RFC 1951): no header and no checksum, which the container has. The baseline's coder."""

    name: ClassVar[str] = "zlib"

    def __init__(self, *, level: int = 9, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.level = _within("level", level, 0, 9)

    def compress(self, raw: bytes) -> bytes:
        zlib = import_compressor("zlib")
        deflate = zlib.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflate.compress(raw) + deflate.flush()

    def decompress(self, data: bytes, size: int) -> bytes:
        zlib = import_compressor("zlib")
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = inflate.decompress(data, size + 1)
        except zlib.error as error:
            raise CorruptFileError(f"not a deflate stream ({error})") from error
        return _whole(raw, len(raw) <= size and inflate.eof and not inflate.unused_data)


@register
class LZMA(ByteCoder):
    """Raw LZMA1 (the 7-zip algorithm) with its end marker; the dictionary is as large as the data, at most 64 MiB."""

    name: ClassVar[str] = "lzma"

    def __init__(self, *, preset: int = 9, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.preset = _within("preset", preset, 0, 9)

    @property
    def slow(self) -> bool:
        return self.preset > 3

    def compress(self, raw: bytes) -> bytes:
        lzma = import_compressor("lzma")
        return lzma.compress(raw, lzma.FORMAT_RAW, filters=self._filters(len(raw)))

    def decompress(self, data: bytes, size: int) -> bytes:
        lzma = import_compressor("lzma")
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self._filters(size))
        try:
            raw = decompressor.decompress(data, size + 1)
        except lzma.LZMAError as error:
            raise CorruptFileError(f"not an LZMA stream ({error})") from error
        return _whole(raw, len(raw) <= size and decompressor.eof and not decompressor.unused_data)

    def _filters(self, size: int) -> list[dict[str, int]]:
        """Raw LZMA takes no memory limit, but the dictionary is the memory, and its size is ours to say."""
        dictionary = 1 << max(12, min(26, (size - 1).bit_length()))
        return [{"id": import_compressor("lzma").FILTER_LZMA1, "preset": self.preset, "dict_size": dictionary}]


@register
class Brotli(ByteCoder):
    """Brotli (RFC 7932) with its largest standard window, 16 MiB."""

    name: ClassVar[str] = "brotli"

    def __init__(self, *, quality: int = 11, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.quality = _within("quality", quality, 0, 11)

    @property
    def slow(self) -> bool:
        return self.quality > 9

    def compress(self, raw: bytes) -> bytes:
        return import_compressor("brotli").compress(raw, quality=self.quality, lgwin=24)

    def decompress(self, data: bytes, size: int) -> bytes:
        """The decoder stops near the limit, not at it: one call may overshoot by its block of 32 KiB."""
        brotli = import_compressor("brotli")
        decompressor, pieces, length = brotli.Decompressor(), [], 0
        try:
            while length <= size and not decompressor.is_finished():
                piece = decompressor.process(b"" if pieces else data, output_buffer_limit=size + 1 - length)
                if pieces and not piece:
                    break  # wants more input: truncated
                pieces.append(piece)
                length += len(piece)
        except brotli.error as error:
            raise CorruptFileError("not a Brotli stream, or not only one") from error
        return _whole(b"".join(pieces), length <= size and decompressor.is_finished())


@register
class Zstd(ByteCoder):
    """Zstandard (RFC 8878), without magic, size and checksum; the window is as large as the data, at most 128 MiB."""

    name: ClassVar[str] = "zstd"

    def __init__(self, *, level: int = 22, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.level = _within("level", level, 1, 22)

    @property
    def slow(self) -> bool:
        return self.level > 12

    def compress(self, raw: bytes) -> bytes:
        zstd = import_compressor("zstandard")
        parameters = zstd.ZstdCompressionParameters.from_level(
            self.level, source_size=len(raw), window_log=self._window(len(raw)), format=zstd.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=False, write_checksum=False, write_dict_id=False,
        )  # fmt: skip
        return zstd.ZstdCompressor(compression_params=parameters).compress(raw)

    def decompress(self, data: bytes, size: int) -> bytes:
        """The library would believe what a frame says of its size, so a frame that says it is refused."""
        zstd, window = import_compressor("zstandard"), 1 << self._window(size)
        try:
            frame = zstd.get_frame_parameters(data, format=zstd.FORMAT_ZSTD1_MAGICLESS)
            if frame.content_size != zstd.CONTENTSIZE_UNKNOWN or frame.dict_id or frame.has_checksum:
                raise CorruptFileError("the Zstandard frame says more than it should")
            if frame.window_size > window:
                raise CorruptFileError("the Zstandard frame wants a larger window than such data needs")
            decompressor = zstd.ZstdDecompressor(format=zstd.FORMAT_ZSTD1_MAGICLESS)
            return decompressor.decompress(data, max(size, 1), read_across_frames=False, allow_extra_data=False)
        except zstd.ZstdError as error:
            raise CorruptFileError(f"not a Zstandard stream, or not only one ({error})") from error

    def _window(self, size: int) -> int:
        return max(10, min(27, (size - 1).bit_length()))


def estimate_size(compress: Callable[[bytes], bytes], raw: bytes) -> float | None:
    """What the rate of a sample makes of the whole; None where the whole has repeats that the sample has not.

    The sample: `SAMPLE_BYTES` bytes, or a 32nd of all if that is more, in pieces of `CHUNK_BYTES` evenly spread.
    """
    count = max(SAMPLE_BYTES, len(raw) // 32) // CHUNK_BYTES
    starts = np.linspace(0, len(raw) - CHUNK_BYTES, count).astype(int)
    sample = b"".join(raw[start : start + CHUNK_BYTES] for start in starts)
    if _rate_with_repeats(raw) < REPEAT_TOLERANCE * _rate_with_repeats(sample):
        return None
    return len(raw) * len(compress(sample)) / len(sample)


def _rate_with_repeats(raw: bytes) -> float:
    """Bytes for each byte that Zstandard makes with matches of 7 bytes or more at any distance, at over 100 MB a second."""
    zstd, settings = import_compressor("zstandard"), {"window_log": 27, "enable_ldm": True, "min_match": 7}
    far = zstd.ZstdCompressionParameters.from_level(1, source_size=len(raw), **settings)
    return len(zstd.ZstdCompressor(compression_params=far).compress(raw)) / len(raw)


def _whole(raw: bytes, whole: bool) -> bytes:
    if not whole:
        raise CorruptFileError("truncated, overlong, or followed by other bytes")
    return raw


def _within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise RecipeError(f"{name} is {low} to {high}, not {value}", where=name)
    return value
