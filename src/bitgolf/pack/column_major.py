"""Column-major order of matrices with rows sorted by similarity, for byte coders (Parameter Golf #1855, "pergroup").

The rows of each matrix are reordered by a greedy nearest-neighbour search that starts at row 0; the matrix is then
transposed. Rows of weights are nearly independent, so the gain is small, and storing the order costs about log2(rows!)
bits. A range coder with order-0 tables gains nothing. The container format of #1855 is not used.
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

PERMUTATION_DTYPE = np.dtype(np.uint16)  # of row indices
MAX_ROWS = 1 << 16  # matrices with more rows are not sorted
_LENGTH = struct.Struct("<I")


@register
class ColumnMajor(Coder):
    """Passes matrices in column-major order to another coder. Arrays that are not matrices are passed unchanged.

    sort_rows: also sort the rows of matrices of one-byte types. `permutation_coder` codes the permutations.

        u32 size of the coded permutations | permutations of all sorted matrices | stream of the other coder
    """

    name: ClassVar[str] = "columns"

    def __init__(
        self, *, coder: Spec[Coder], sort_rows: bool = True, permutation_coder: Spec[Coder] = part(Brotli)
    ) -> None:
        self.coder, self.sort_rows, self.permutation_coder = coder(), sort_rows, permutation_coder()
        if self.coder.variance_contexts:
            cause = f"{type(self.coder).__name__} with variance_contexts=true cannot be used in ColumnMajor"
            hint = "set variance_contexts=false or remove ColumnMajor"
            raise RecipeError(cause, where="ColumnMajor.coder", hint=hint)

    def encode(self, symbols: Array) -> bytes:
        return self.encode_arrays([symbols])

    def decode(self, data: bytes, dtype: np.dtype[Any], count: int) -> Array:
        return self.decode_arrays(data, dtype, [(count,)])[0]

    def label(self, data: bytes) -> str:
        _, codes = _split_permutations(data)
        return f"{self.name}.{self.coder.label(codes)}"

    def encode_arrays(self, arrays: Sequence[Array]) -> bytes:
        orders = {i: similarity_order(a) for i, a in enumerate(arrays) if self._is_sorted(a.dtype, a.shape)}
        permutations = b""
        if orders:
            permutations = self.permutation_coder.encode(np.concatenate(list(orders.values())))
        transposed = [(a[orders[i]] if i in orders else a).T for i, a in enumerate(arrays)]
        return _LENGTH.pack(len(permutations)) + permutations + self.coder.encode_arrays(transposed)

    def decode_arrays(self, data: bytes, dtype: np.dtype[Any], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        permutations, codes = _split_permutations(data)
        at = [i for i, shape in enumerate(shapes) if self._is_sorted(dtype, shape)]
        orders = dict(zip(at, self._decode_orders(permutations, [shapes[i][0] for i in at]), strict=True))
        transposed = self.coder.decode_arrays(codes, dtype, [shape[::-1] for shape in shapes])
        arrays = [np.ascontiguousarray(array.T).reshape(shape) for array, shape in zip(transposed, shapes, strict=True)]
        for i, order in orders.items():
            arrays[i] = arrays[i][np.argsort(order)]
        return arrays

    def _is_sorted(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        """Whether the rows of such an array are reordered. Depends only on what encoder and decoder both know."""
        return (
            self.sort_rows
            and dtype.itemsize == 1
            and len(shape) == 2
            and 2 < shape[0] <= MAX_ROWS
            and math.prod(shape) > 0
        )

    def _decode_orders(self, data: bytes, rows: list[int]) -> list[Array]:
        """One permutation per sorted matrix; `rows` are the numbers of rows of these matrices."""
        if not rows:
            if data:
                raise CorruptFileError(f"{len(data)} bytes of row permutations, but no matrix has sorted rows")
            return []
        orders = split_by_shape(self.permutation_coder.decode(data, PERMUTATION_DTYPE, sum(rows)), [(n,) for n in rows])
        for order in orders:
            if not np.array_equal(np.sort(order), np.arange(order.size)):
                raise CorruptFileError(f"the stored order of {order.size} rows is not a permutation")
        return orders


def similarity_order(codes: Array) -> NDArray[np.uint16]:
    """Order of the rows of one-byte codes (rows, columns): row 0 first, then always the nearest row not yet used.

    Distances are in L1; of equally near rows, the one with the smallest index comes first. Returns the row indices (rows,). Time is proportional to rows**2 * columns: about one minute
    for 8,192 rows of 512 columns.
    """
    rows = codes.astype(np.int16)
    current, unused, indices = rows[0].copy(), rows[1:], np.arange(1, len(rows))
    order = np.zeros(len(rows), PERMUTATION_DTYPE)
    for i in range(1, len(rows)):
        distances = np.abs(unused - current).sum(1, dtype=np.int32)
        nearest = np.flatnonzero(distances == distances.min())
        at = nearest[indices[nearest].argmin()]
        order[i], current = indices[at], unused[at].copy()
        indices[at], unused[at] = indices[-1], unused[-1]
        indices, unused = indices[:-1], unused[:-1]
    return order


def _split_permutations(data: bytes) -> tuple[bytes, bytes]:
    """Split a stream into the coded permutations and the codes. Raises `CorruptFileError` if it is truncated."""
    end = _LENGTH.size + (_LENGTH.unpack_from(data)[0] if len(data) >= _LENGTH.size else 0)
    if end > len(data):
        raise CorruptFileError(f"truncated: {len(data)} bytes, but the row permutations end at byte {end}")
    return data[_LENGTH.size : end], data[end:]
