"""The code of document lengths: lossless, and an error for anything that it did not write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.errors import CorruptFileError
from bitgolf.score.length_code import MAX_LENGTH, bucket_of, decode_lengths, encode_lengths, low_bits, smallest_length

LENGTHS = st.lists(st.integers(1, 60) | st.integers(1, 5000) | st.integers(1, MAX_LENGTH), max_size=40)


@given(LENGTHS)
def test_lengths_come_back(lengths: list[int]) -> None:
    assert decode_lengths(encode_lengths(np.array(lengths, np.int64)), len(lengths)).tolist() == lengths


@given(st.integers(1, MAX_LENGTH))
def test_a_length_is_in_its_bucket(length: int) -> None:
    bucket = bucket_of(length)
    assert smallest_length(bucket) <= length < smallest_length(bucket) + (1 << low_bits(bucket))


@given(LENGTHS, st.data())
def test_damage_is_an_error_or_other_lengths(lengths: list[int], data: st.DataObject) -> None:
    """Every data that is accepted is the code of what it gives."""
    coded = bytearray(encode_lengths(np.array(lengths, np.int64)))
    coded[data.draw(st.integers(0, len(coded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = decode_lengths(bytes(coded), len(lengths))
    except CorruptFileError:
        return
    assert encode_lengths(found) == bytes(coded)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b""])
def test_data_that_is_cut_or_too_long_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CorruptFileError):
        decode_lengths(change(encode_lengths(np.array([700, 3, 90_000]))), 3)
    with pytest.raises(CorruptFileError):
        decode_lengths(encode_lengths(np.array([700, 3])), 3)
