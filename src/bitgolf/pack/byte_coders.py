"""Coders of arrays that use a general-purpose compressor: raw bytes, deflate, LZMA, Brotli, Zstandard.

At slow settings they take about one second per megabyte. `estimate_size` predicts the compressed size of a large input
from a sample. The compression ratio of the sample is within 0.1 % of that of the whole input for Brotli and Zstandard,
and too low by up to 1.5 % for LZMA.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from bitgolf.config.ranges import Range
from bitgolf.config.registry import register
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack import byte_planes
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coders import Coder
from bitgolf.pack.optional_modules import import_compressor

SAMPLE_BYTES, CHUNK_BYTES = 1 << 18, 1 << 14
REPEAT_TOLERANCE = 0.99
"""A sample is used if a fast compressor's ratio (compressed to raw size) on the whole input is at least this fraction
of its ratio on the sample. A smaller ratio means that the input has long-range repeats."""


class ByteCoder(Coder):
    """A general-purpose compressor of bytes.

    shuffle: store symbols of several bytes as consecutive byte planes (byte shuffling).
    """

    def __init__(self, *, shuffle: bool = True) -> None:
        self.shuffle = shuffle

    @property
    def slow(self) -> bool:
        """Whether compression takes about one second per megabyte or more at this setting."""
        return False

    @abstractmethod
    def compress(self, raw: bytes) -> bytes:
        """Compress bytes."""

    @abstractmethod
    def decompress(self, data: bytes, size: int) -> bytes:
        """Decompress to at most `size` bytes; the memory used is bounded accordingly.

        Raises `CorruptFileError` for a damaged stream, for more than `size` bytes, and for unread input.
        """

    def encode(self, symbols: Array) -> bytes:
        return self.compress(self._raw(symbols))

    def estimate(self, arrays: Sequence[Array]) -> float | None:
        if not self.slow or sum(array.nbytes for array in arrays) <= SAMPLE_BYTES:
            return None
        return estimate_size(self.compress, self._raw(np.concatenate([array.reshape(-1) for array in arrays])))

    def _raw(self, symbols: Array) -> bytes:
        planes = byte_planes.split(symbols)
        return (planes if self.shuffle else planes.T).tobytes()

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        size = count * dtype.itemsize
        raw = self.decompress(data, size)
        if len(raw) != size:
            raise CorruptFileError(f"decodes to {len(raw)} bytes, expected {size}")
        flat = np.frombuffer(raw, np.uint8)
        if self.shuffle:
            return byte_planes.join(flat.reshape(dtype.itemsize, count), dtype)
        return byte_planes.join(flat.reshape(count, dtype.itemsize).T, dtype)


@register
class Raw(ByteCoder):
    """Uncompressed bytes, for data that compressors cannot make smaller."""

    name: ClassVar[str] = "raw"

    def __init__(self) -> None:
        super().__init__(shuffle=False)

    def compress(self, raw: bytes) -> bytes:
        return raw

    def decompress(self, data: bytes, size: int) -> bytes:
        return data


@register
class Zlib(ByteCoder):
    """Raw deflate (RFC 1951) without header and checksum, since the container has checksums. Used by the baseline."""

    name: ClassVar[str] = "zlib"

    def __init__(self, *, level: Annotated[int, Range(0, 9)] = 9, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.level = _check_range("level", level, 0, 9)

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
        return _check_complete(raw, size, inflate.eof and not inflate.unused_data)


@register
class LZMA(ByteCoder):
    """Raw LZMA1 (the 7-zip algorithm) with end marker. The dictionary is as large as the data, at most 64 MiB."""

    name: ClassVar[str] = "lzma"

    def __init__(self, *, preset: Annotated[int, Range(0, 9)] = 9, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.preset = _check_range("preset", preset, 0, 9)

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
        return _check_complete(raw, size, decompressor.eof and not decompressor.unused_data)

    def _filters(self, size: int) -> list[dict[str, int]]:
        """Filter chain for `size` bytes. Raw LZMA has no memory limit, so memory is bounded by the dictionary size."""
        dictionary = 1 << max(12, min(26, (size - 1).bit_length()))
        return [{"id": import_compressor("lzma").FILTER_LZMA1, "preset": self.preset, "dict_size": dictionary}]


@register
class Brotli(ByteCoder):
    """Brotli (RFC 7932) with the largest standard window, 16 MiB."""

    name: ClassVar[str] = "brotli"

    def __init__(self, *, quality: Annotated[int, Range(0, 11)] = 11, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.quality = _check_range("quality", quality, 0, 11)

    @property
    def slow(self) -> bool:
        return self.quality > 9

    def compress(self, raw: bytes) -> bytes:
        return import_compressor("brotli").compress(raw, quality=self.quality, lgwin=24)

    def decompress(self, data: bytes, size: int) -> bytes:
        """As in the base class. One call may exceed the output limit by a block of 32 KiB, so the length is checked."""
        brotli = import_compressor("brotli")
        decompressor, pieces, length = brotli.Decompressor(), [], 0
        try:
            while length <= size and not decompressor.is_finished():
                piece = decompressor.process(b"" if pieces else data, output_buffer_limit=size + 1 - length)
                if pieces and not piece:
                    break  # the decoder needs more input: the stream is truncated
                pieces.append(piece)
                length += len(piece)
        except brotli.error as error:
            raise CorruptFileError("not a Brotli stream, or followed by other bytes") from error
        return _check_complete(b"".join(pieces), size, decompressor.is_finished())


@register
class Zstd(ByteCoder):
    """Zstandard (RFC 8878) without magic, size and checksum. The window is as large as the data, at most 128 MiB."""

    name: ClassVar[str] = "zstd"

    def __init__(self, *, level: Annotated[int, Range(1, 22)] = 22, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.level = _check_range("level", level, 1, 22)

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
        """As in the base class. Frames that declare a content size are refused, since the library would allocate it."""
        zstd, window = import_compressor("zstandard"), 1 << self._window(size)
        try:
            frame = zstd.get_frame_parameters(data, format=zstd.FORMAT_ZSTD1_MAGICLESS)
            if frame.content_size != zstd.CONTENTSIZE_UNKNOWN or frame.dict_id or frame.has_checksum:
                raise CorruptFileError("the Zstandard frame declares a content size, a dictionary or a checksum")
            if frame.window_size > window:
                cause = f"a window of {frame.window_size} bytes, more than the {window} bytes expected"
                raise CorruptFileError(f"the Zstandard frame declares {cause}")
            decompressor = zstd.ZstdDecompressor(format=zstd.FORMAT_ZSTD1_MAGICLESS)
            return decompressor.decompress(data, max(size, 1), read_across_frames=False, allow_extra_data=False)
        except zstd.ZstdError as error:
            raise CorruptFileError(f"not a Zstandard stream, or followed by other bytes ({error})") from error

    def _window(self, size: int) -> int:
        return max(10, min(27, (size - 1).bit_length()))


def estimate_size(compress: Callable[[bytes], bytes], raw: bytes) -> float | None:
    """Estimate the compressed size of `raw` in bytes from a sample.

    The sample has `SAMPLE_BYTES` bytes, or 1/32 of the input if that is more, in evenly spaced chunks of `CHUNK_BYTES`.
    Returns None if the input has long-range repeats that the sample does not show.
    """
    count = max(SAMPLE_BYTES, len(raw) // 32) // CHUNK_BYTES
    starts = np.linspace(0, len(raw) - CHUNK_BYTES, count).astype(int)
    sample = b"".join(raw[start : start + CHUNK_BYTES] for start in starts)
    if _rate_with_repeats(raw) < REPEAT_TOLERANCE * _rate_with_repeats(sample):
        return None
    return len(raw) * len(compress(sample)) / len(sample)


def _rate_with_repeats(raw: bytes) -> float:
    """Compressed size per byte with fast Zstandard settings that find matches of 7 bytes or more at any distance.

    Runs at more than 100 MB per second.
    """
    zstd, settings = import_compressor("zstandard"), {"window_log": 27, "enable_ldm": True, "min_match": 7}
    parameters = zstd.ZstdCompressionParameters.from_level(1, source_size=len(raw), **settings)
    return len(zstd.ZstdCompressor(compression_params=parameters).compress(raw)) / len(raw)


def _check_complete(raw: bytes, size: int, finished: bool) -> bytes:
    if not finished or len(raw) > size:
        raise CorruptFileError(f"truncated, longer than {size} bytes when decoded, or followed by other bytes")
    return raw


def _check_range(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise RecipeError(f"{name} must be between {low} and {high}, got {value}", where=name)
    return value
