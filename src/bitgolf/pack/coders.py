"""Lossless coders of one-dimensional arrays. The decoder is told type and count, so that no stream carries a header.

Decoding untrusted bytes takes time and memory bounded by the expected size; whatever is wrong is a `DamagedError`.
What each one costs on quantized Gaussian weights: spec, section 5.1; `Range` is at the entropy, byte coders are not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from bitgolf.config.spec import Spec, part, register
from bitgolf.errors import BitgolfError, DamagedError, RecipeError
from bitgolf.pack import byte_planes, coder_selection
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.frequency_tables import Forms
from bitgolf.pack.optional_modules import library
from bitgolf.pack.range_coder import decode_plane_stream, encode_plane_stream


class Coder(ABC):
    """`decode(encode(symbols), symbols.dtype, symbols.size)` is `symbols`, for integers and floats of 1 to 8 bytes.

    levels: whether the symbols of matrices are sorted by the spread of their rows and columns first (`pack.contexts`).
    """

    levels: bool = False

    @abstractmethod
    def encode(self, symbols: Array) -> bytes: ...

    @abstractmethod
    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        """Raises `DamagedError` where `data` is not exactly what `encode` wrote for `count` symbols."""

    def encode_arrays(self, arrays: Sequence[Array]) -> bytes:
        """The arrays of one stream, of one type and any shapes. Only a coder that looks at shapes says more than this."""
        return self.encode(np.concatenate([array.reshape(-1) for array in arrays]))

    def decode_arrays(self, data: bytes, dtype: np.dtype[Any], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """The inverse of `encode_arrays`, with the errors of `decode`."""
        return byte_planes.cut(self.decode(data, dtype, sum(map(math.prod, shapes))), shapes)

    def estimate(self, arrays: Sequence[Array]) -> float | None:
        """About the bytes that `encode_arrays` would make; None: to know them, code them."""
        return None

    def check(self) -> None:
        """Code a few bytes and read them back. Raises `BitgolfError` where that cannot be done on this machine."""
        symbols = np.arange(-40, 40, dtype=np.int8)
        if not np.array_equal(self.decode(self.encode(symbols), symbols.dtype, symbols.size), symbols):
            raise BitgolfError(f"{type(self).__name__} does not give back what it was given")

    def label(self, data: bytes) -> str:
        """What the ledger calls the coder of these bytes."""
        return type(self).__name__.lower()


class ByteCoder(Coder):
    """A general-purpose compressor over bytes; `shuffle` puts the byte planes of wider types one after the other.

    slow: at this setting it takes about a second or more for a megabyte.
    """

    slow: bool = False

    def __init__(self, *, shuffle: bool = True) -> None:
        self.shuffle = shuffle

    @abstractmethod
    def compress(self, raw: bytes) -> bytes: ...

    @abstractmethod
    def expand(self, data: bytes, size: int) -> bytes:
        """At most `size` bytes, and not many more are ever produced. More, or unread input, is a `DamagedError`."""

    def encode(self, symbols: Array) -> bytes:
        return self.compress(self._raw(symbols))

    def estimate(self, arrays: Sequence[Array]) -> float | None:
        if not self.slow or sum(array.nbytes for array in arrays) <= coder_selection.SAMPLE:
            return None
        return coder_selection.estimate(
            self.compress, self._raw(np.concatenate([array.reshape(-1) for array in arrays]))
        )

    def _raw(self, symbols: Array) -> bytes:
        bytes_of = byte_planes.split(symbols)
        return (bytes_of if self.shuffle else bytes_of.T).tobytes()

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        size = count * dtype.itemsize
        raw = self.expand(data, size)
        if len(raw) != size:
            raise DamagedError(f"holds {len(raw)} bytes, expected {size}")
        flat = np.frombuffer(raw, np.uint8)
        if self.shuffle:
            return byte_planes.join(flat.reshape(dtype.itemsize, count), dtype)
        return byte_planes.join(flat.reshape(count, dtype.itemsize).T, dtype)


@register
class Raw(ByteCoder):
    """The bytes themselves: for what does not compress."""

    def __init__(self) -> None:
        super().__init__(shuffle=False)

    def compress(self, raw: bytes) -> bytes:
        return raw

    def expand(self, data: bytes, size: int) -> bytes:
        return data


@register
class Zlib(ByteCoder):
    """Raw deflate (RFC 1951): no header and no checksum, which the container has. The baseline's coder."""

    def __init__(self, *, level: int = 9, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.level = _within("level", level, 0, 9)

    def compress(self, raw: bytes) -> bytes:
        zlib = library("zlib")
        deflate = zlib.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        return deflate.compress(raw) + deflate.flush()

    def expand(self, data: bytes, size: int) -> bytes:
        zlib = library("zlib")
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = inflate.decompress(data, size + 1)
        except zlib.error as error:
            raise DamagedError(f"not a deflate stream ({error})") from None
        return _whole(raw, len(raw) <= size and inflate.eof and not inflate.unused_data)


@register
class Lzma(ByteCoder):
    """Raw LZMA1 (the 7-zip algorithm) with its end marker; the dictionary is as large as the data, at most 64 MiB."""

    def __init__(self, *, preset: int = 9, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.preset = _within("preset", preset, 0, 9)
        self.slow = preset > 3

    def compress(self, raw: bytes) -> bytes:
        lzma = library("lzma")
        return lzma.compress(raw, lzma.FORMAT_RAW, filters=self._filters(len(raw)))

    def expand(self, data: bytes, size: int) -> bytes:
        lzma = library("lzma")
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self._filters(size))
        try:
            raw = decompressor.decompress(data, size + 1)
        except lzma.LZMAError as error:
            raise DamagedError(f"not an LZMA stream ({error})") from None
        return _whole(raw, len(raw) <= size and decompressor.eof and not decompressor.unused_data)

    def _filters(self, size: int) -> list[dict[str, int]]:
        """Raw LZMA takes no memory limit, but the dictionary is the memory, and its size is ours to say."""
        dictionary = 1 << max(12, min(26, (size - 1).bit_length()))
        return [{"id": library("lzma").FILTER_LZMA1, "preset": self.preset, "dict_size": dictionary}]


@register
class Brotli(ByteCoder):
    """Brotli (RFC 7932) with its largest standard window, 16 MiB."""

    def __init__(self, *, quality: int = 11, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.quality = _within("quality", quality, 0, 11)
        self.slow = quality > 9

    def compress(self, raw: bytes) -> bytes:
        return library("brotli").compress(raw, quality=self.quality, lgwin=24)

    def expand(self, data: bytes, size: int) -> bytes:
        """The decoder stops near the limit, not at it: one call may overshoot by its block of 32 KiB."""
        brotli = library("brotli")
        decompressor, pieces, length = brotli.Decompressor(), [], 0
        try:
            while length <= size and not decompressor.is_finished():
                piece = decompressor.process(b"" if pieces else data, output_buffer_limit=size + 1 - length)
                if pieces and not piece:
                    break  # wants more input: truncated
                pieces.append(piece)
                length += len(piece)
        except brotli.error:
            raise DamagedError("not a Brotli stream, or not only one") from None
        return _whole(b"".join(pieces), length <= size and decompressor.is_finished())


@register
class Zstd(ByteCoder):
    """Zstandard (RFC 8878), without magic, size and checksum; the window is as large as the data, at most 128 MiB."""

    def __init__(self, *, level: int = 22, shuffle: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.level = _within("level", level, 1, 22)
        self.slow = level > 12

    def compress(self, raw: bytes) -> bytes:
        zstd = library("zstandard")
        parameters = zstd.ZstdCompressionParameters.from_level(
            self.level, source_size=len(raw), window_log=self._window(len(raw)), format=zstd.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=False, write_checksum=False, write_dict_id=False,
        )  # fmt: skip
        return zstd.ZstdCompressor(compression_params=parameters).compress(raw)

    def expand(self, data: bytes, size: int) -> bytes:
        """The library would believe what a frame says of its size, so a frame that says it is refused."""
        zstd, window = library("zstandard"), 1 << self._window(size)
        try:
            frame = zstd.get_frame_parameters(data, format=zstd.FORMAT_ZSTD1_MAGICLESS)
            if frame.content_size != zstd.CONTENTSIZE_UNKNOWN or frame.dict_id or frame.has_checksum:
                raise DamagedError("the Zstandard frame says more than it should")
            if frame.window_size > window:
                raise DamagedError("the Zstandard frame wants a larger window than such data needs")
            decompressor = zstd.ZstdDecompressor(format=zstd.FORMAT_ZSTD1_MAGICLESS)
            return decompressor.decompress(data, max(size, 1), read_across_frames=False, allow_extra_data=False)
        except zstd.ZstdError as error:
            raise DamagedError(f"not a Zstandard stream, or not only one ({error})") from None

    def _window(self, size: int) -> int:
        return max(10, min(27, (size - 1).bit_length()))


@register
class Range(Coder):
    """Range coding, with the table of each byte plane that makes the fewest bytes: for small alphabets, such as codes.

    `tables`: "smallest" of all forms (`pack.tables`), "sent" as counts, or "adaptive", nearly without any.
    """

    def __init__(self, *, levels: bool = False, tables: Forms = "smallest") -> None:
        self.levels = levels
        self.tables: Forms = tables

    def encode(self, symbols: Array) -> bytes:
        return encode_plane_stream(_offset(byte_planes.split(symbols), symbols.dtype), self.tables)

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        return byte_planes.join(_offset(decode_plane_stream(data, dtype.itemsize, count), dtype), dtype)


@register
class Smallest(Coder):
    """Whichever of `coders` makes the fewest bytes (the first of equals), named by one byte in front.

    Slow ones that an estimate puts clearly behind are not run (`pack.choosing`).
    """

    def __init__(self, *, coders: tuple[Spec[Coder], ...] = (part(Range), part(Brotli), part(Lzma), part(Raw))) -> None:
        if not 1 <= len(coders) <= 256:
            raise RecipeError(f"Smallest chooses among 1 to 256 coders, not {len(coders)}", place="Smallest.coders")
        self.coders = [coder() for coder in coders]

    def encode(self, symbols: Array) -> bytes:
        return self.encode_arrays([symbols])

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        return self.decode_arrays(data, dtype, [(count,)])[0]

    def encode_arrays(self, arrays: Sequence[Array]) -> bytes:
        streams = coder_selection.contenders(self.coders, arrays)
        best = min(streams, key=lambda i: len(streams[i]))
        return bytes([best]) + streams[best]

    def decode_arrays(self, data: bytes, dtype: np.dtype[Any], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        return self._chosen(data).decode_arrays(data[1:], dtype, shapes)

    def label(self, data: bytes) -> str:
        return self._chosen(data).label(data[1:])

    def _chosen(self, data: bytes) -> Coder:
        if not data or data[0] >= len(self.coders):
            raise DamagedError("names no known coder")
        return self.coders[data[0]]


def _offset(bytes_of: Array, dtype: np.dtype[Any]) -> Array:
    """Two's complement to offset binary and back, so that the codes of one tensor are neighbours around 128."""
    if dtype.kind != "i":
        return bytes_of
    return np.concatenate([bytes_of[:-1], bytes_of[-1:] ^ 0x80])


def _whole(raw: bytes, whole: bool) -> bytes:
    if not whole:
        raise DamagedError("truncated, overlong, or followed by other bytes")
    return raw


def _within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise RecipeError(f"{name} is {low} to {high}, not {value}", place=name)
    return value
