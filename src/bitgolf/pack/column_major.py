"""Matrices column by column, their rows sorted so that neighbours are alike: what byte coders can make use of.

As in PR #1855 ("pergroup"), without its container: a stream's matrices are transposed, rows reordered before that by a
greedy walk from row 0 to the nearest row not yet visited. Rows of weights are nearly independent, so what this saves is
little, and the order costs about log2(rows!) bits; a range coder sees no order at all.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitgolf.config.registry import register
from bitgolf.config.spec import Spec, part
from bitgolf.errors import CorruptFileError, RecipeError
from bitgolf.pack.byte_coders import Brotli
from bitgolf.pack.byte_planes import Array, split_by_shape
from bitgolf.pack.coders import Coder

PERMUTATION_DTYPE = np.dtype(np.uint16)  # of the numbers of rows
MAX_ROWS = 1 << 16  # rows
_LENGTH = struct.Struct("<I")


@register
class ColumnMajor(Coder):
    """Another coder, given each matrix column by column; what is no matrix stays as it is.

    `sort_rows`: bytes are also sorted by rows (wider types are not), and the permutations are coded by `permutation_coder`.

        u32 length of the permutations | permutations, matrix by matrix | the other coder's stream
    """

    name: ClassVar[str] = "columns"

    def __init__(
        self, *, coder: Spec[Coder], sort_rows: bool = True, permutation_coder: Spec[Coder] = part(Brotli)
    ) -> None:
        self.coder, self.sort_rows, self.permutation_coder = coder(), sort_rows, permutation_coder()
        if self.coder.variance_contexts:
            raise RecipeError("levels sort symbols by rows and columns already", where="ColumnMajor.coder")

    def encode(self, symbols: Array) -> bytes:
        return self.encode_arrays([symbols])

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        return self.decode_arrays(data, dtype, [(count,)])[0]

    def label(self, data: bytes) -> str:
        _, codes = _split_permutations(data)
        return f"{self.name}.{self.coder.label(codes)}"

    def encode_arrays(self, arrays: Sequence[Array]) -> bytes:
        orders = {i: similarity_order(a) for i, a in enumerate(arrays) if self._sorted(a.dtype, a.shape)}
        head = b""
        if orders:
            head = self.permutation_coder.encode(np.concatenate(list(orders.values())))
        turned = [(a[orders[i]] if i in orders else a).T for i, a in enumerate(arrays)]
        return _LENGTH.pack(len(head)) + head + self.coder.encode_arrays(turned)

    def decode_arrays(self, data: bytes, dtype: np.dtype[Any], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        head, codes = _split_permutations(data)
        at = [i for i, shape in enumerate(shapes) if self._sorted(dtype, shape)]
        orders = dict(zip(at, self._orders(head, [shapes[i][0] for i in at]), strict=True))
        turned = self.coder.decode_arrays(codes, dtype, [shape[::-1] for shape in shapes])
        arrays = [np.ascontiguousarray(array.T).reshape(shape) for array, shape in zip(turned, shapes, strict=True)]
        for i, order in orders.items():
            arrays[i] = arrays[i][np.argsort(order)]
        return arrays

    def _sorted(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        """Whether such an array's rows are reordered: what writer and reader both know."""
        return (
            self.sort_rows
            and dtype.itemsize == 1
            and len(shape) == 2
            and 2 < shape[0] <= MAX_ROWS
            and math.prod(shape) > 0
        )

    def _orders(self, head: bytes, rows: list[int]) -> list[Array]:
        if not rows:
            if head:
                raise CorruptFileError("permutations where nothing is permuted")
            return []
        orders = split_by_shape(self.permutation_coder.decode(head, PERMUTATION_DTYPE, sum(rows)), [(n,) for n in rows])
        for order in orders:
            if not np.array_equal(np.sort(order), np.arange(order.size)):
                raise CorruptFileError("the order of rows is not a permutation")
        return orders


def similarity_order(codes: Array) -> NDArray[np.uint16]:
    """(rows,) the order of a greedy walk through the rows of bytes (rows, columns): from row 0, to the nearest in L1.

    Time grows with rows**2 * columns: about a minute for 8,192 rows of 512.
    """
    rows = codes.astype(np.int16)
    here, rest, left = rows[0].copy(), rows[1:], np.arange(1, len(rows))
    order = np.zeros(len(rows), PERMUTATION_DTYPE)
    for i in range(1, len(rows)):
        at = int(np.abs(rest - here).sum(1, dtype=np.int32).argmin())
        order[i], here = left[at], rest[at].copy()
        left[at], rest[at] = left[-1], rest[-1]
        left, rest = left[:-1], rest[:-1]
    return order


def _split_permutations(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < _LENGTH.size:
        raise CorruptFileError("truncated")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise CorruptFileError("truncated")
    return data[_LENGTH.size : end], data[end:]
