"""Codes of less than a byte in whole bytes. Every sequence of codes has one packed form, and `unpack` refuses others."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from bitgolf.errors import CorruptFileError
from bitgolf.pack.byte_planes import Array


class BitPacking(Protocol):
    def packed_shape(self, n: int) -> tuple[int, ...]:
        """Of the bytes that hold n codes."""
        ...

    def pack(self, codes: Array) -> Array:
        """int8[n] -> uint8 of this shape."""
        ...

    def unpack(self, packed: Array, n: int) -> Array:
        """The inverse. Raises `CorruptFileError` for bytes that `pack` never makes."""
        ...


class DigitPacking(NamedTuple):
    """Codes low, low + stride, ... as digits 0, 1, ... of this base, `per_byte` in a byte, the first one lowest.

    The last byte is filled up with digits of 0.
    """

    base: int
    per_byte: int
    low: int
    stride: int = 1

    def packed_shape(self, n: int) -> tuple[int, ...]:
        return (-(-n // self.per_byte),)

    def pack(self, codes: Array) -> Array:
        digits = np.pad((codes - np.int8(self.low)) // np.int8(self.stride), (0, -codes.size % self.per_byte))
        return digits.astype(np.uint8).reshape(-1, self.per_byte) @ self._places()

    def unpack(self, packed: Array, n: int) -> Array:
        if (packed > self.base**self.per_byte - 1).any():
            raise CorruptFileError(f"a byte holds no {self.per_byte} digits of base {self.base}")
        digits = (packed[:, None] // self._places() % np.uint8(self.base)).reshape(-1).astype(np.int8)
        if digits[n:].any():
            raise CorruptFileError("the last byte holds more codes than the tensor has weights")
        return digits[:n] * np.int8(self.stride) + np.int8(self.low)

    def _places(self) -> Array:
        return np.uint8(self.base) ** np.arange(self.per_byte, dtype=np.uint8)


class BitmaskPacking:
    """-1, 0, 1 as two rows of bits: which are not zero, and the signs (1 for plus) of those that are not, one after another.

    The second row is as long as the first, as what a tensor packs to may not depend on its values; the zeros at its end
    cost a coder that knows repetitions nothing.
    """

    def packed_shape(self, n: int) -> tuple[int, ...]:
        return 2, -(-n // 8)

    def pack(self, codes: Array) -> Array:
        signs = codes[codes != 0] > 0
        rows = np.stack([codes != 0, np.pad(signs, (0, codes.size - signs.size))])
        return np.packbits(rows, axis=1, bitorder="little")

    def unpack(self, packed: Array, n: int) -> Array:
        used, signs = np.unpackbits(packed, axis=1, bitorder="little")
        count = int(np.count_nonzero(used))
        if used[n:].any() or signs[count:].any():
            raise CorruptFileError(
                "there are more bits than the tensor has weights, or more signs than it has others than 0"
            )
        codes = np.zeros(n, np.int8)
        codes[used[:n] != 0] = signs[:count].astype(np.int8) * np.int8(2) - np.int8(1)
        return codes


BITS, TRITS, NIBBLES = DigitPacking(2, 8, -1, stride=2), DigitPacking(3, 5, -1), DigitPacking(16, 2, -8)
"""-1 and 1; -1, 0 and 1 (243 of the 256 bytes); -8 to 7."""
