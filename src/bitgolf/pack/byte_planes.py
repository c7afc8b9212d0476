"""Conversions of arrays for coders: byte planes, order-0 entropy, and splitting one stream into several arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def split(symbols: Array) -> NDArray[np.uint8]:
    """Byte shuffling (as in Blosc): `n` symbols of `k` bytes -> uint8 (k, n). Plane 0 holds the lowest bytes."""
    little = np.ascontiguousarray(symbols, symbols.dtype.newbyteorder("<"))
    return np.ascontiguousarray(little.view(np.uint8).reshape(symbols.size, symbols.itemsize).T)


def join(planes: NDArray[np.uint8], dtype: np.dtype[Any]) -> Array:
    """The inverse of `split`: planes (k, n) -> a new, writable array of `n` symbols."""
    little = np.array(planes.T, order="C", copy=True).reshape(-1)
    return little.view(dtype.newbyteorder("<")).astype(dtype, copy=False)


def split_by_shape(symbols: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Cut a one-dimensional array into consecutive arrays of these shapes."""
    pieces = np.split(symbols, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def entropy_bits(symbols: Array) -> float:
    """Order-0 entropy of all symbols in bits, summed over byte planes for types of several bytes."""
    return sum(_plane_bits(plane) for plane in split(symbols.reshape(-1)))


def _plane_bits(plane: NDArray[np.uint8]) -> float:
    counts = np.bincount(plane)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / plane.size)).sum()) + 0.0  # + 0.0 turns -0.0 into 0.0
