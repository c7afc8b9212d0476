"""Selection of the coder with the smallest stream without running every coder on the whole input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.config.spec import Spec, part
from bitgolf.pack import byte_coders, coder_selection
from bitgolf.pack.byte_coders import LZMA, Brotli, Raw, Zlib, Zstd
from bitgolf.pack.byte_planes import Array
from bitgolf.pack.coder_selection import MARGIN, SmallestCoder
from bitgolf.pack.coders import Coder, RangeCoder
from helpers.coders import gaussian
from helpers.examples import examples

SLOW: list[Spec[Coder]] = [part(Brotli), part(LZMA), part(Zstd)]


@pytest.mark.parametrize("spec", SLOW, ids=repr)
def test_a_slow_coder_is_estimated_from_a_sample(spec: Spec[Coder]) -> None:
    coder, codes = spec(), gaussian(12.85, 1 << 20)
    about, size = coder.estimate([codes[: 1 << 19].reshape(512, -1), codes[1 << 19 :]]), len(coder.encode(codes))
    assert about and (1 - 3 * MARGIN) * size < about < (1 + MARGIN / 2) * size  # LZMA's ratio depends on size
    assert coder.estimate([codes[: byte_coders.SAMPLE_BYTES]]) is None


@pytest.mark.parametrize(
    "spec", [part(Raw), part(Zlib), part(Brotli, quality=9), part(Zstd, level=12), part(RangeCoder)]
)
def test_a_quick_coder_is_not_estimated(spec: Spec[Coder]) -> None:
    assert spec().estimate([gaussian(12.85, 1 << 19)]) is None


def test_a_sample_says_nothing_where_only_the_whole_repeats_itself() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 800_000).astype(np.uint8)
    twice = np.concatenate([noise[:400_000], noise[:400_000]])
    assert Brotli().estimate([noise]) == pytest.approx(800_000, rel=0.01) and Brotli().estimate([twice]) is None
    both = SmallestCoder(coders=(part(RangeCoder), part(Brotli)))
    assert both.label(both.encode(twice)) == "brotli"


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The calls of slow coders: (class name, number of input bytes). Samples have a quarter of their usual size."""
    monkeypatch.setattr(byte_coders, "SAMPLE_BYTES", 1 << 16)
    monkeypatch.setattr(byte_coders, "CHUNK_BYTES", 1 << 12)
    seen = list[tuple[str, int]]()

    def count(kind: type[Brotli] | type[LZMA]) -> None:
        compress = kind.compress

        def counted(self: Any, raw: bytes) -> bytes:
            seen.append((kind.__name__, len(raw)))
            return compress(self, raw)

        monkeypatch.setattr(kind, "compress", counted)

    count(Brotli)
    count(LZMA)
    return seen


def test_who_is_clearly_behind_is_not_run(compressed: list[tuple[str, int]]) -> None:
    both = SmallestCoder(coders=(part(RangeCoder), part(Brotli)))
    data = both.encode(gaussian(12.85, 1 << 18))
    assert both.label(data) == "range" and compressed == [("Brotli", byte_coders.SAMPLE_BYTES)]
    assert data[1:] == RangeCoder().encode(gaussian(12.85, 1 << 18))


def test_who_is_close_is_run(compressed: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coder_selection, "MARGIN", 0.02)
    both = SmallestCoder(coders=(part(RangeCoder), part(Brotli)))
    assert both.label(both.encode(gaussian(12.85, 1 << 18))) == "range"
    assert compressed == [("Brotli", byte_coders.SAMPLE_BYTES), ("Brotli", 1 << 18)]


def test_among_slow_coders_alone_the_likeliest_is_run_and_may_settle_it(compressed: list[tuple[str, int]]) -> None:
    codes, alone = gaussian(12.85, 1 << 17), SmallestCoder(coders=(part(LZMA), part(Brotli)))
    assert alone.label(alone.encode(codes)) == "brotli"
    assert sorted(compressed) == [
        ("Brotli", byte_coders.SAMPLE_BYTES),
        ("Brotli", 1 << 17),
        ("LZMA", byte_coders.SAMPLE_BYTES),
    ]


def test_an_estimate_that_was_not_kept_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def boasting(self: LZMA, raw: bytes) -> bytes:
        return raw if len(raw) > byte_coders.SAMPLE_BYTES else raw[: len(raw) // 4]

    monkeypatch.setattr(LZMA, "compress", boasting)
    alone = SmallestCoder(coders=(part(LZMA), part(Brotli)))
    assert alone.label(alone.encode(gaussian(12.85, 1 << 19))) == "brotli"


SOURCES = b"".join(path.read_bytes() for path in sorted(Path(coder_selection.__file__).parent.rglob("*.py")))


def stream(kind: str, seed: int) -> Array:
    """About 100,000 symbols: codes with equal or varying spread, floats, text, or codes with repeated rows."""
    generator = np.random.default_rng(seed)
    if kind == "text":
        return np.frombuffer(SOURCES, np.uint8)[seed * 1000 :][:100_000]
    if kind == "floats":
        return generator.standard_normal(60_000).astype(np.float16)
    spread = np.exp2(0.7 * generator.standard_normal((1, 200)) * (kind == "uneven")) * generator.uniform(0.5, 5)
    codes = np.clip(np.rint(generator.standard_normal((500, 200)) * spread), -127, 127).astype(np.int8)
    if kind == "copies":
        codes[3::4] = codes[2::4]  # visible in a sample; a coder that uses repeats is a quarter smaller
    end = codes[: seed % 400 + 1 if kind == "repeating" else 0]
    return np.concatenate([codes.reshape(-1), end.reshape(-1)])


@pytest.mark.parametrize("kind", ["even", "uneven", "repeating", "copies", "floats", "text"])
@settings(max_examples=examples(5), deadline=None)
@given(seed=st.integers(0, 50), slow=st.sampled_from(SLOW))
def test_the_choice_is_hardly_ever_worse_than_that_among_all(kind: str, seed: int, slow: Spec[Coder]) -> None:
    """The result is at most 1 % larger than the smallest, even with samples of 1/8 of the usual size."""
    symbols, options = stream(kind, seed), (part(RangeCoder), slow, part(Zlib))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_coders, "SAMPLE_BYTES", 1 << 15)
        patch.setattr(byte_coders, "CHUNK_BYTES", 1 << 12)
        found = len(SmallestCoder(coders=options).encode(symbols)) - 1
    assert found <= 1.01 * min(len(option().encode(symbols)) for option in options)
