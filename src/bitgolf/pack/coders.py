"""Lossless coders of one-dimensional arrays. The decoder is told type and count, so that no stream carries a header.

Decoding untrusted bytes takes time and memory bounded by the expected size; whatever is wrong is a `CorruptFileError`.
What each one costs on quantized Gaussian weights: spec, section 5.1; `RangeCoder` is at the entropy, byte coders are not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from bitgolf.config.registry import register
from bitgolf.errors import BitgolfError
from bitgolf.pack import byte_planes
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.frequency_tables import TableKinds
from bitgolf.pack.range_coder import decode_plane_stream, encode_plane_stream


class Coder(ABC):
    """`decode(encode(symbols), symbols.dtype, symbols.size)` is `symbols`, for integers and floats of 1 to 8 bytes.

    name: what sections and the ledger call the coder. It is stored in files, so it stays when the class is renamed.
    levels: whether the symbols of matrices are sorted by the spread of their rows and columns first (`pack.contexts`).
    """

    name: ClassVar[str]
    variance_contexts: bool = False

    @abstractmethod
    def encode(self, symbols: Array) -> bytes: ...

    @abstractmethod
    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        """Raises `CorruptFileError` where `data` is not exactly what `encode` wrote for `count` symbols."""

    def encode_arrays(self, arrays: Sequence[Array]) -> bytes:
        """The arrays of one stream, of one type and any shapes. Only a coder that looks at shapes says more than this."""
        return self.encode(np.concatenate([array.reshape(-1) for array in arrays]))

    def decode_arrays(self, data: bytes, dtype: np.dtype[Any], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """The inverse of `encode_arrays`, with the errors of `decode`."""
        return byte_planes.split_by_shape(self.decode(data, dtype, sum(map(math.prod, shapes))), shapes)

    def estimate(self, arrays: Sequence[Array]) -> float | None:
        """About the bytes that `encode_arrays` would make; None: to know them, code them."""
        return None

    def self_test(self) -> None:
        """Code a few bytes and read them back. Raises `BitgolfError` where that cannot be done on this machine."""
        symbols = np.arange(-40, 40, dtype=np.int8)
        if not np.array_equal(self.decode(self.encode(symbols), symbols.dtype, symbols.size), symbols):
            raise BitgolfError(f"{type(self).__name__} does not give back what it was given")

    def label(self, data: bytes) -> str:
        """What the ledger calls the coder of these bytes."""
        return self.name


@register
class RangeCoder(Coder):
    """Range coding, with the table of each byte plane that makes the fewest bytes: for small alphabets, such as codes.

    `tables`: "smallest" of all forms (`pack.frequency_tables`), "sent" as counts, or "adaptive", nearly without any.
    """

    name: ClassVar[str] = "range"

    def __init__(self, *, variance_contexts: bool = False, tables: TableKinds = "smallest") -> None:
        self.variance_contexts = variance_contexts
        self.tables: TableKinds = tables

    def encode(self, symbols: Array) -> bytes:
        return encode_plane_stream(_offset(byte_planes.split(symbols), symbols.dtype), self.tables)

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        return byte_planes.join(_offset(decode_plane_stream(data, dtype.itemsize, count), dtype), dtype)


def _offset(bytes_of: Array, dtype: np.dtype[Any]) -> Array:
    """Two's complement to offset binary and back, so that the codes of one tensor are neighbours around 128."""
    if dtype.kind != "i":
        return bytes_of
    return np.concatenate([bytes_of[:-1], bytes_of[-1:] ^ 0x80])
