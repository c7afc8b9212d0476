"""Bit packing: known values, exact inverse for every length, and refusal of all other bytes."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.errors import CorruptFileError
from bitgolf.quantize.codecs.bit_packing import BITS, NIBBLES, TRITS, BitmaskPacking, BitPacking
from helpers.examples import examples

CODES: dict[BitPacking, list[int]] = {
    BITS: [-1, 1],
    TRITS: [-1, 0, 1],
    NIBBLES: list(range(-8, 8)),
    BitmaskPacking(): [-1, 0, 1],
}
MASK = list(CODES)[-1]
packings = pytest.mark.parametrize("packing", CODES, ids=["bits", "trits", "nibbles", "bitmask"])


@packings
@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_every_length_comes_back(packing: BitPacking, data: st.DataObject) -> None:
    n = data.draw(st.one_of(st.integers(0, 17), st.integers(0, 300)))
    values = data.draw(st.lists(st.sampled_from(CODES[packing]), min_size=n, max_size=n))
    codes = np.array(values, np.int8)
    packed = packing.pack(codes)
    assert packed.dtype == np.uint8 and packed.shape == packing.packed_shape(n)
    back = packing.unpack(packed, n)
    assert back.dtype == np.int8 and np.array_equal(back, codes)


@packings
@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_any_bytes_are_damage_or_the_one_form_of_their_codes(packing: BitPacking, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 20))
    size = int(np.prod(packing.packed_shape(n)))
    packed = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8).reshape(
        packing.packed_shape(n)
    )
    with suppress(CorruptFileError):
        codes = packing.unpack(packed, n)
        assert np.isin(codes, CODES[packing]).all() and np.array_equal(packing.pack(codes), packed)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(-1, 1), max_size=40))
def test_five_ternary_digits_to_a_byte(values: list[int]) -> None:
    packed = TRITS.pack(np.array(values, np.int8))
    by_hand = [sum((v + 1) * 3**k for k, v in enumerate(values[i : i + 5])) for i in range(0, len(values), 5)]
    assert packed.tolist() == by_hand and all(byte <= 242 for byte in by_hand)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from([-1, 1]), max_size=40))
def test_eight_signs_to_a_byte(values: list[int]) -> None:
    by_hand = [sum((v > 0) << k for k, v in enumerate(values[i : i + 8])) for i in range(0, len(values), 8)]
    assert BITS.pack(np.array(values, np.int8)).tolist() == by_hand


def test_the_order_of_nibbles() -> None:
    """Nibbles hold q + 8, the first in the low bits; the unused half of the last byte is zero."""
    assert NIBBLES.pack(np.array([-7, 7, 1], np.int8)).tolist() == [0xF1, 0x09]
    assert NIBBLES.unpack(np.array([0xF1, 0x09], np.uint8), 3).tolist() == [-7, 7, 1]


def test_the_bitmask_and_the_signs_of_what_it_marks() -> None:
    packed = MASK.pack(np.array([0, 1, -1, 0, 0, 1, 0, 0, 1], np.int8))
    assert packed.tolist() == [[0b00100110, 0b1], [0b1101, 0]]


@pytest.mark.parametrize(
    ("packing", "packed", "n"),
    [
        (BITS, [0b1000], 3),
        (TRITS, [243], 5),
        (TRITS, [81], 4),
        (NIBBLES, [0x19], 1),
        (MASK, [[0b1000], [0]], 3),
        (MASK, [[0b0101], [0b100]], 3),
    ],
)
def test_a_second_form_of_the_same_codes_is_damage(packing: BitPacking, packed: list[int], n: int) -> None:
    with pytest.raises(CorruptFileError):
        packing.unpack(np.array(packed, np.uint8), n)
