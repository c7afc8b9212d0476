"""Settings of every coder, and arrays to test them with."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitgolf.config.spec import Spec, part
from bitgolf.pack.byte_coders import LZMA, Brotli, Raw, Zlib, Zstd
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.column_major import ColumnMajor

CODERS: list[Spec[Coder]] = [
    part(Raw),
    part(Zlib),
    part(Zlib, level=1, shuffle=False),
    part(LZMA),
    part(Brotli, quality=5),
    part(Brotli, shuffle=False),
    part(Zstd, level=3),
    part(Zstd, level=19, shuffle=False),
    part(RangeCoder),
    part(RangeCoder, tables="sent"),
    part(RangeCoder, tables="adaptive"),
    part(ColumnMajor, coder=part(RangeCoder)),
    part(SmallestCoder, coders=(part(Zlib), part(RangeCoder), part(Raw))),
]
DTYPES = [np.dtype(t) for t in ("int8", "uint8", "int16", "uint16", "float16", "float32", "int64")]


def same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@st.composite
def symbol_arrays(draw: st.DrawFn) -> Array:
    """Arrays of every dtype: empty, all equal, small values, or arbitrary bytes (also NaN and infinity)."""
    dtype = draw(st.sampled_from(DTYPES))
    kind = draw(st.sampled_from(["bytes", "equal", "small"]))
    size = draw(st.integers(0, 300))
    if kind == "bytes":
        return np.frombuffer(draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize)), dtype)
    if kind == "equal":
        return np.full(size, draw(arrays.from_dtype(dtype)), dtype)
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    return (generator.standard_normal(size) * 4).astype(np.int8).astype(dtype)


@cache
def gaussian(k: float, count: int) -> Array:
    """int8 array of `count` int6 codes of Gaussian weights, clipped at `k` standard deviations."""
    weights = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    return np.clip(np.round(weights * (31 / k)), -31, 31).astype(np.int8)
