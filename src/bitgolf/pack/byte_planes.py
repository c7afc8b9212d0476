"""Arrays as coders see them: byte planes, their order-0 entropy, and one stream cut into several arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def split(symbols: Array) -> NDArray[np.uint8]:
    """`n` symbols of `k` bytes as `uint8[k, n]`: plane 0 holds every symbol's lowest byte (byte shuffling, as in Blosc)."""
    little = np.ascontiguousarray(symbols, symbols.dtype.newbyteorder("<"))
    return np.ascontiguousarray(little.view(np.uint8).reshape(symbols.size, symbols.itemsize).T)


def join(planes: NDArray[np.uint8], dtype: np.dtype[Any]) -> Array:
    """The inverse of `split`: a new, writable array of `n` symbols."""
    little = np.array(planes.T, order="C", copy=True).reshape(-1)
    return little.view(dtype.newbyteorder("<")).astype(dtype, copy=False)


def split_by_shape(symbols: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """One array for each shape, from as many symbols as they hold."""
    pieces = np.split(symbols, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def entropy_bits(symbols: Array) -> float:
    """Order-0 entropy of all symbols together, in bits, the byte planes of wider types taken apart."""
    return sum(_plane_bits(plane) for plane in split(symbols.reshape(-1)))


def _plane_bits(plane: NDArray[np.uint8]) -> float:
    counts = np.bincount(plane)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / plane.size)).sum()) + 0.0  # never -0.0
