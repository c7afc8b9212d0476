"""Coders: every round trip, sizes on Gaussian codes, and what damage does (properties C1, C2)."""

from __future__ import annotations

import lzma
import tracemalloc
import zlib
from contextlib import suppress
from functools import cache

import brotli
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitgolf.errors import DamagedError, RecipeError
from bitgolf.pack import range_coder
from bitgolf.pack.coders import Brotli, Coder, Lzma, Range, Raw, Smallest, Zlib
from bitgolf.pack.planes import Array, entropy_bits, join, split
from bitgolf.pack.range_coder import encode_plane_stream
from bitgolf.spec import Spec, part

CODERS: list[Spec[Coder]] = [
    part(Raw),
    part(Zlib),
    part(Zlib, level=1, shuffle=False),
    part(Lzma),
    part(Brotli, quality=5),
    part(Brotli, shuffle=False),
    part(Range),
    part(Smallest, coders=(part(Zlib), part(Range), part(Raw))),
]
DTYPES = [np.dtype(t) for t in ("int8", "uint8", "int16", "uint16", "float16", "float32", "int64")]


def same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@st.composite
def symbol_arrays(draw: st.DrawFn) -> Array:
    """Empty, one symbol, all equal, few values, or any bytes at all (so NaNs and infinities too)."""
    dtype = draw(st.sampled_from(DTYPES))
    kind = draw(st.sampled_from(["bytes", "equal", "small"]))
    size = draw(st.integers(0, 300))
    if kind == "bytes":
        return np.frombuffer(draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize)), dtype)
    if kind == "equal":
        return np.full(size, draw(arrays.from_dtype(dtype)), dtype)
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    return (generator.standard_normal(size) * 4).astype(np.int8).astype(dtype)


@pytest.mark.parametrize("coder", [spec() for spec in CODERS], ids=map(repr, CODERS))
@settings(max_examples=120, deadline=None)
@given(symbols=symbol_arrays())
def test_round_trip(coder: Coder, symbols: Array) -> None:
    before = symbols.tobytes()
    data = coder.encode(symbols)
    back = coder.decode(data, symbols.dtype, symbols.size)
    assert same(back, symbols) and back.flags.writeable
    assert symbols.tobytes() == before and coder.encode(symbols) == data


@given(symbols=symbol_arrays())
def test_byte_planes_are_the_bytes_by_significance(symbols: Array) -> None:
    planes = split(symbols)
    assert planes.shape == (symbols.itemsize, symbols.size)
    assert planes.T.tobytes() == symbols.astype(symbols.dtype.newbyteorder("<")).tobytes()
    assert same(join(planes, symbols.dtype), symbols)


def test_entropy_of_known_arrays() -> None:
    assert entropy_bits(np.zeros(100, np.int8)) == 0
    assert entropy_bits(np.arange(256).astype(np.int8)) == 256 * 8
    assert entropy_bits(np.array([0, 0, 1, 256], np.uint16)) == pytest.approx(
        2 * 4 * -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    )


# ---- sizes ---------------------------------------------------------------------------------------------------------


@cache
def gaussian(k: float, count: int) -> Array:
    """int6 codes of Gaussian weights clipped at `k` standard deviations, one in a byte."""
    weights = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    return np.clip(np.round(weights * (31 / k)), -31, 31).astype(np.int8)


@pytest.mark.parametrize(
    ("coder", "k", "count", "percent"),
    [  # spec, 5.1; what LZMA wastes grows with the size, the table's is of 4,194,304 weights
        (part(Zlib), 12.85, 1 << 20, 15.6),
        (part(Zlib), 11.5, 1 << 20, 15.3),
        (part(Brotli), 12.85, 1 << 20, 1.42),
        (part(Brotli), 11.5, 1 << 20, 0.78),
        pytest.param(part(Lzma), 12.85, 1 << 22, 7.9, marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_byte_coders_waste_what_is_known_of_them(coder: Spec[Coder], k: float, count: int, percent: float) -> None:
    codes = gaussian(k, count)
    waste = 100 * (8 * len(coder().encode(codes)) / entropy_bits(codes) - 1)
    assert waste == pytest.approx(percent, abs=1.0)


@pytest.mark.parametrize("k", [12.85, 11.5])
def test_range_coding_is_at_the_entropy(k: float) -> None:
    codes = gaussian(k, 1 << 20)
    data = Range().encode(codes)
    assert 1 <= 8 * len(data) / entropy_bits(codes) < 1.001
    assert same(Range().decode(data, codes.dtype, codes.size), codes)


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_range_tables_are_small(count: int) -> None:
    codes = gaussian(12.85, count)
    assert len(Range().encode(codes)) - entropy_bits(codes) / 8 < 64


def test_range_tables_are_as_fine_as_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.clip(np.random.default_rng(0).normal(128, 40, 50_000).round(), 0, 255).astype(np.uint8)
    chosen = len(Range().encode(wide))
    alone = {}
    for bits in (4, 6, 8, 10, 12, 16, 20):
        monkeypatch.setattr(range_coder, "RESOLUTIONS", [1 << bits])
        alone[bits] = len(Range().encode(wide))
    assert chosen <= min(alone.values()) + 4 and chosen < alone[4] and chosen < alone[20]


def test_equally_likely_bytes_need_no_table() -> None:
    for count in (40, 4000):  # with values that never occur, and without
        noise = np.random.default_rng(0).integers(0, 256, count).astype(np.uint8)
        assert len(Range().encode(noise)) < noise.nbytes + 12


def test_brotli_sees_a_repeat_across_its_whole_window() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 500_000).astype(np.uint8)
    assert len(Brotli(quality=9).encode(np.concatenate([noise, noise]))) < 1.1 * noise.nbytes


def test_range_coding_splits_scales_into_byte_planes() -> None:
    scales = (np.random.default_rng(0).gamma(20, 0.001, 4000)).astype(np.float16)
    size = len(Range().encode(scales))
    assert size < 0.7 * scales.nbytes and size < len(Zlib().encode(scales))
    assert size < entropy_bits(scales) / 8 + 64


def test_smallest_takes_the_smallest_and_says_which() -> None:
    coders: tuple[Spec[Coder], ...] = (part(Raw), part(Zlib), part(Range))
    smallest = Smallest(coders=coders)
    noise = np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8)
    for symbols, label in ((noise, "raw"), (np.tile(noise, 20), "zlib"), (gaussian(12.85, 5000), "range")):
        data = smallest.encode(symbols)
        assert len(data) == 1 + min(len(c().encode(symbols)) for c in coders)
        assert smallest.label(data) == label


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", CODERS, ids=repr)
def test_wrong_sizes_and_other_bytes_are_damage(spec: Spec[Coder]) -> None:
    coder, codes = spec(), gaussian(12.85, 2000)
    data = coder.encode(codes)
    for wrong in (data[:-1], data + b"\1", data + data, data[: len(data) // 2], b"", data[1:]):
        with pytest.raises(DamagedError):
            coder.decode(wrong, codes.dtype, codes.size)
    for count in (0, 1, 1000, 2001, 4000):
        with pytest.raises(DamagedError):
            coder.decode(data, codes.dtype, count)


@pytest.mark.parametrize("coder", [spec() for spec in CODERS], ids=map(repr, CODERS))
@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), dtype=st.sampled_from(DTYPES), count=st.integers(0, 50))
def test_any_bytes_decode_or_are_damage(coder: Coder, data: bytes, dtype: np.dtype[np.generic], count: int) -> None:
    try:
        symbols = coder.decode(data, dtype, count)
    except DamagedError:
        return
    assert symbols.dtype == dtype and symbols.shape == (count,)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), count=st.integers(2, 400))
def test_a_flipped_bit_in_a_range_payload_never_passes_as_the_same(at: int, bit: int, count: int) -> None:
    codes = gaussian(12.85, 400)[:count]
    data = bytearray(Range().encode(codes))
    data[at % len(data)] ^= 1 << bit
    with suppress(DamagedError):
        assert not same(Range().decode(bytes(data), codes.dtype, count), codes)


def bombs() -> list[tuple[Coder, bytes]]:
    zeros = bytes(1 << 26)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9, "dict_size": 4096}]
    return [
        (Zlib(), deflate.compress(zeros) + deflate.flush()),
        (Lzma(), lzma.compress(zeros, lzma.FORMAT_RAW, filters=filters)),
        (Brotli(), brotli.compress(zeros, quality=5)),
    ]


@pytest.mark.parametrize(("coder", "bomb"), bombs(), ids=["zlib", "lzma", "brotli"])
def test_bombs_are_not_expanded(coder: Coder, bomb: bytes) -> None:
    assert len(bomb) < 70_000
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            coder.decode(bomb, np.dtype(np.uint8), 1000)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_tables_that_no_encoder_writes_are_damage() -> None:
    good = encode_plane_stream(np.array([[3] * 15 + [4]], np.uint8))
    assert good[:5] == bytes([16, 3, 1, 15, 1])
    for table in (
        bytes([255, 1, 15, 1]),  # beyond 255
        bytes([3, 1, 15, 0]),  # the highest value never occurs
        bytes([3, 1, 0x8F, 0x00, 1]),  # a longer form of 15
        bytes([3, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 1]),  # a count beyond all
        bytes([3, 1, 0x8F]),
        bytes([3]),
    ):
        with pytest.raises(DamagedError):
            Range().decode(good[:1] + table + good[5:], np.dtype(np.uint8), 16)


def test_impossible_settings_are_refused() -> None:
    for bad in (part(Zlib, level=10), part(Lzma, preset=-1), part(Brotli, quality=12), part(Smallest, coders=())):
        with pytest.raises(RecipeError):
            bad()
