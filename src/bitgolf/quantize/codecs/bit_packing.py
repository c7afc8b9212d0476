"""Packing of codes of less than 8 bits into bytes. The packed form of codes is unique; `unpack` refuses all others."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from bitgolf.errors import CorruptFileError
from bitgolf.pack.byte_planes import Array


class BitPacking(Protocol):
    """A format for int8 codes in uint8 bytes."""

    def packed_shape(self, n: int) -> tuple[int, ...]:
        """Shape of the uint8 array that holds n codes."""
        ...

    def pack(self, codes: Array) -> Array:
        """int8 codes (n,) -> uint8 array of shape `packed_shape(n)`."""
        ...

    def unpack(self, packed: Array, n: int) -> Array:
        """The int8 codes (n,). Raises `CorruptFileError` for bytes that `pack` never writes."""
        ...


class DigitPacking(NamedTuple):
    """Codes low, low + stride, ... as digits 0, 1, ... in base `base`, `per_byte` digits in a byte.

    The first code is the least significant digit. The last byte is padded with zero digits.
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
            raise CorruptFileError(
                f"the byte {packed.max()} is not {self.per_byte} digits of base {self.base} "
                f"(at most {self.base**self.per_byte - 1})"
            )
        digits = (packed[:, None] // self._places() % np.uint8(self.base)).reshape(-1).astype(np.int8)
        if digits[n:].any():
            raise CorruptFileError(f"the last byte holds more codes than the {n:,} weights of the tensor")
        return digits[:n] * np.int8(self.stride) + np.int8(self.low)

    def _places(self) -> Array:
        return np.uint8(self.base) ** np.arange(self.per_byte, dtype=np.uint8)


class BitmaskPacking:
    """-1, 0, 1 as two bitmaps: which codes are nonzero, and the signs of the nonzero codes in order (1 for plus).

    The bitmap of signs is padded with zeros to the length of the first, since packed shapes must not depend on values.
    A coder that models repetitions compresses the padding to almost nothing.
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
                f"bits are set beyond the {n:,} weights of the tensor, or signs beyond its {count:,} nonzero codes"
            )
        codes = np.zeros(n, np.int8)
        codes[used[:n] != 0] = signs[:count].astype(np.int8) * np.int8(2) - np.int8(1)
        return codes


BITS, TRITS, NIBBLES = DigitPacking(2, 8, -1, stride=2), DigitPacking(3, 5, -1), DigitPacking(16, 2, -8)
"""Binary codes -1 and 1; ternary codes -1, 0, 1 (243 of the 256 byte values); 4-bit codes -8 to 7."""
