"""Frequency tables of the range coder: small, adaptive if that is smaller, and identical on all machines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import CorruptFileError
from bitgolf.pack import frequency_tables, generalized_gaussian
from bitgolf.pack.byte_planes import entropy_bits
from bitgolf.pack.coders import RangeCoder
from helpers.coders import gaussian, same
from helpers.examples import examples


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_range_tables_are_small(count: int) -> None:
    codes = gaussian(12.85, count)
    assert len(RangeCoder().encode(codes)) - entropy_bits(codes) / 8 < 14
    assert len(RangeCoder(tables="adaptive").encode(codes)) - entropy_bits(codes) / 8 < 18
    assert len(RangeCoder(tables="sent").encode(codes)) - entropy_bits(codes) / 8 < 50


def test_tables_that_adapt_follow_symbols_that_change() -> None:
    """Two tensors of different spread in one stream, for which static counts fit neither."""
    both = np.concatenate([gaussian(24, 200_000), gaussian(11.5, 200_000)])
    apart = (entropy_bits(both[:200_000]) + entropy_bits(both[200_000:])) / 8
    assert len(RangeCoder().encode(both)) < 1.01 * apart < 0.99 * entropy_bits(both) / 8
    assert same(RangeCoder().decode(RangeCoder().encode(both), both.dtype, both.size), both)


def test_the_smallest_table_is_taken() -> None:
    few = gaussian(12.85, 500)
    forms: list[frequency_tables.TableKinds] = ["smallest", "sent", "adaptive"]
    lattice = np.repeat(np.array([0, 3, 9, 200], np.uint8), [700, 40, 300, 5])  # no generalized Gaussian fits this
    for symbols in (few, lattice, np.random.default_rng(0).permutation(lattice), gaussian(12.85, 50_000)):
        smallest, sent, adaptive = (len(RangeCoder(tables=form).encode(symbols)) for form in forms)
        assert smallest <= min(sent, adaptive) + 4  # 4 bytes, the granularity of the coder


def test_range_tables_are_as_fine_as_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.clip(np.random.default_rng(0).normal(128, 40, 50_000).round(), 0, 255).astype(np.uint8)
    chosen = len(RangeCoder(tables="sent").encode(wide))
    alone = {}
    for bits in (4, 6, 8, 10, 12, 16, 20):
        monkeypatch.setattr(frequency_tables, "RESOLUTIONS", [1 << bits])
        alone[bits] = len(RangeCoder(tables="sent").encode(wide))
    assert chosen <= min(alone.values()) + 4 and chosen < alone[4] and chosen < alone[20]


def test_equally_likely_bytes_need_no_table() -> None:
    for count in (40, 4000):  # with values that never occur, and without
        noise = np.random.default_rng(0).integers(0, 256, count).astype(np.uint8)
        assert len(RangeCoder().encode(noise)) < noise.nbytes + 12


@settings(max_examples=examples(40), deadline=None)
@given(
    seed=st.integers(0, 99),
    count=st.sampled_from([1, 60, 5000, 60_000]),
    pace=st.integers(0, len(frequency_tables.ADAPTATIONS) - 1),
)
def test_bits_of_tables_that_adapt_are_summed_block_by_block(seed: int, count: int, pace: int) -> None:
    """The size computed for all blocks at once equals the sum over blocks in the order of coding."""
    plane = np.clip(np.random.default_rng(seed).normal(128, 9, count), 0, 255).astype(np.uint8)
    table = frequency_tables._adaptive_table((128 * 256, 100, 64), pace)
    pieces = np.array([np.bincount(plane[a:b], minlength=256) for a, b in frequency_tables.adaptation_blocks(count)])
    state, bits = frequency_tables.AdaptiveCounts(table), 0.0
    for piece in pieces:
        bits += frequency_tables._bits(piece, state.weights())
        state.update(piece)
    assert frequency_tables._adapted_bits(pieces, frequency_tables._seen_counts(pieces, table), table) == pytest.approx(
        bits, rel=1e-9
    )


def test_tables_that_no_encoder_writes_are_damage() -> None:
    plane = np.array([3] * 60 + [4] * 4, np.uint8)
    good = RangeCoder(tables="sent").encode(plane)
    assert good[:6] == bytes([64, 2, 3, 1, 15, 1])
    for table in (
        bytes([2, 255, 1, 15, 1]),  # beyond 255
        bytes([2, 3, 1, 15, 0]),  # the highest value never occurs
        bytes([2, 2, 2, 0, 15, 1]),  # nor the lowest
        bytes([2, 3, 1, 0x8F, 0x00, 1]),  # 15 in a form that is not the shortest
        bytes([2, 3, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 1]),  # a count of 2**35 or more
        bytes([2, 3, 1, 0x8F]),
        bytes([1, 255, 1]),
        bytes([1, 3, 0]),  # a single value has another form
        bytes([3, 0, 3, 40, 0]),  # a curve with power 0
        bytes([4 + len(frequency_tables.ADAPTATIONS), 0, 3, 40, 64]),  # an adaptation beyond the last
        bytes([255, 0, 3, 40, 64]),
        bytes([3]),
        b"",
    ):
        payload = good[6:] if len(table) > 4 else b""  # a truncated table must not be followed by more bytes
        with pytest.raises(CorruptFileError, match=r"table|number"):
            RangeCoder().decode(good[:1] + table + payload, np.dtype(np.uint8), 64)


@settings(max_examples=examples(60), deadline=None)
@given(centre=st.integers(0, 65535), spread=st.integers(0, 255), power=st.integers(1, 255))
def test_curves_are_what_they_are_called(centre: int, spread: int, power: int) -> None:
    """Weights equal the formula in floats, lie in 1 to `MAX_WEIGHT`, and decrease with distance from the centre."""
    counts = generalized_gaussian.generalized_gaussian(centre, spread, power)
    distance = np.abs(np.arange(256) - centre / 256)
    expected = generalized_gaussian.MAX_WEIGHT * np.exp(
        -np.minimum((distance / 2 ** (spread / 16 - 4)) ** (power / 32), 700)
    )
    assert np.abs(counts - np.maximum(expected, 1)).max() <= 1
    assert (np.diff(counts[np.argsort(distance, kind="stable")]) <= 0).all()


def test_curves_are_the_same_on_every_machine() -> None:
    """Stored values, on which the decoding of existing artifacts depends."""
    assert generalized_gaussian.generalized_gaussian(32768, 84, 64)[128:138].tolist() == [
        1048576, 878671, 517019, 213619, 61976, 12626, 1806, 181, 12, 1,
    ]  # fmt: skip
    assert generalized_gaussian.generalized_gaussian(1000, 64, 24)[:9].tolist() == [
        65145, 113218, 207032, 414204, 885155, 359843, 183940, 101744, 58979,
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(centre=st.integers(0, 65535), spread=st.integers(0, 255), power=st.integers(1, 255))
def test_weights_are_those_of_decimal_arithmetic(centre: int, spread: int, power: int) -> None:
    counts = generalized_gaussian.generalized_gaussian(centre, spread, power)
    exact = [generalized_gaussian._exact_weight(abs(256 * x - centre), spread, power) for x in range(256)]
    assert counts.tolist() == exact


def test_a_weight_near_a_whole_number_is_computed_in_decimal_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float may lie on the other side of the whole number on another machine; the centre itself is such a case."""
    asked: list[int] = []
    monkeypatch.setattr(generalized_gaussian, "_exact_weight", lambda distance, *_: asked.append(distance) or 7)
    counts = generalized_gaussian.generalized_gaussian.__wrapped__(256 * 40, 100, 64)
    assert 0 in asked and counts[40] == 7 and len(asked) < 10
