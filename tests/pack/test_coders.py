"""Coders: round trips, sizes on Gaussian codes, and coders that are not installed."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings

from bitgolf.config.spec import Spec, part
from bitgolf.errors import BitgolfError, RecipeError
from bitgolf.pack.byte_coders import LZMA, Brotli, Raw, Zlib, Zstd
from bitgolf.pack.byte_planes import Array, entropy_bits, join, split
from bitgolf.pack.coder_selection import SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from bitgolf.pack.settings import Pack, check_coders
from helpers.coders import CODERS, gaussian, same, symbol_arrays
from helpers.examples import examples


@pytest.mark.parametrize("coder", [spec() for spec in CODERS], ids=map(repr, CODERS))
@settings(max_examples=examples(50), deadline=None)
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


@pytest.mark.parametrize(
    ("coder", "k", "count", "percent"),
    [  # percent above the order-0 entropy of 4,194,304 Gaussian codes; that of LZMA depends on the number of codes
        (part(Zlib), 12.85, 1 << 20, 15.6),
        pytest.param(part(Zlib), 11.5, 1 << 20, 15.3, marks=pytest.mark.exhaustive),
        pytest.param(part(Brotli), 12.85, 1 << 20, 1.42, marks=pytest.mark.exhaustive),
        (part(Brotli), 11.5, 1 << 20, 0.78),
        (part(Zstd), 12.85, 1 << 20, 1.70),
        pytest.param(part(Zstd), 11.5, 1 << 20, 1.08, marks=pytest.mark.exhaustive),
        (part(RangeCoder), 12.85, 1 << 20, 0.0),
        (part(RangeCoder), 11.5, 1 << 20, 0.0),
        (part(LZMA), 12.85, 1 << 20, 5.88),
        pytest.param(part(LZMA), 12.85, 1 << 22, 7.9, marks=pytest.mark.exhaustive),
    ],
    ids=repr,
)
def test_byte_coders_waste_what_is_known_of_them(coder: Spec[Coder], k: float, count: int, percent: float) -> None:
    codes = gaussian(k, count)
    waste = 100 * (8 * len(coder().encode(codes)) / entropy_bits(codes) - 1)
    assert waste == pytest.approx(percent, abs=0.3)


@pytest.mark.parametrize("k", [12.85, 11.5])
def test_range_coding_is_at_the_entropy(k: float) -> None:
    codes = gaussian(k, 1 << 20)
    data = RangeCoder().encode(codes)
    assert 1 <= 8 * len(data) / entropy_bits(codes) < 1.001
    assert same(RangeCoder().decode(data, codes.dtype, codes.size), codes)


def test_brotli_sees_a_repeat_across_its_whole_window() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 500_000).astype(np.uint8)
    assert len(Brotli(quality=9).encode(np.concatenate([noise, noise]))) < 1.1 * noise.nbytes


def test_range_coding_splits_scales_into_byte_planes() -> None:
    scales = (np.random.default_rng(0).gamma(20, 0.001, 4000)).astype(np.float16)
    size = len(RangeCoder().encode(scales))
    assert size < 0.7 * scales.nbytes and size < len(Zlib().encode(scales))
    assert size < entropy_bits(scales) / 8 + 64


def test_smallest_takes_the_smallest_and_says_which() -> None:
    options: tuple[Spec[Coder], ...] = (part(Raw), part(Zlib), part(RangeCoder))
    smallest = SmallestCoder(coders=options)
    noise = np.random.default_rng(0).integers(0, 256, 500).astype(np.uint8)
    for symbols, label in ((noise, "raw"), (np.tile(noise, 20), "zlib"), (gaussian(12.85, 5000), "range")):
        data = smallest.encode(symbols)
        assert len(data) == 1 + min(len(c().encode(symbols)) for c in options)
        assert smallest.label(data) == label


@pytest.mark.parametrize("spec", CODERS, ids=repr)
def test_every_coder_checks_itself(spec: Spec[Coder], monkeypatch: pytest.MonkeyPatch) -> None:
    coder = spec()
    coder.self_test()
    monkeypatch.setattr(coder, "decode", lambda data, dtype, count: np.zeros(count, dtype))
    with pytest.raises(BitgolfError, match="does not decode what it encoded"):
        coder.self_test()


@pytest.mark.parametrize(("spec", "name"), [(part(Brotli), "brotli"), (part(Zstd), "zstandard"), (part(LZMA), "lzma")])
def test_a_missing_compressor_is_named_with_a_hint(
    spec: Spec[Coder], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BitgolfError, match=f"compressor {name} is not installed") as caught:
        check_coders(part(Pack, coder=part(SmallestCoder, coders=(part(Raw), spec))))
    assert caught.value.hint == ("use a Python that was built with lzma" if name == "lzma" else f"pip install {name}")
    assert caught.value.where == ("the artifact's header" if name == "brotli" else "pack.coder.coders.1")


def test_impossible_settings_are_refused() -> None:
    for bad in (
        partial(part, Zlib, level=10),
        partial(part, LZMA, preset=-1),
        partial(part, Brotli, quality=12),
        partial(part, Zstd, level=23),
        partial(part, SmallestCoder, coders=()),
    ):
        with pytest.raises(RecipeError):
            bad()()
