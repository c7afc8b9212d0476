"""Tests of logarithmic steps: identical on every machine, at most 4.4 % off, saturating at the largest code."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.grids import log_steps

EXPONENTS = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=40)


def test_every_code_is_the_float32_nearest_to_its_power() -> None:
    codes = np.arange(256, dtype=np.uint8)
    exact = np.array([2.0 ** (int(c) / 8) for c in codes]).astype(np.float32)  # doubles are exact enough to round once
    found = log_steps.decode_log_steps(codes)
    assert found.dtype == np.float32 and found.tobytes() == exact.tobytes()


@given(exponents=EXPONENTS)
def test_steps_are_within_4_4_percent_or_saturate(exponents: list[float]) -> None:
    wanted = np.array(exponents)
    codes, lowest = log_steps.encode_log_steps(wanted)
    assert codes.dtype == np.uint8 and codes.shape == wanted.shape and lowest == wanted.min()
    above = wanted - lowest
    reached = above <= 255 / 8
    ratio = log_steps.decode_log_steps(codes).astype(np.float64) / 2.0**above
    assert (np.abs(np.log2(ratio[reached])) <= 1 / 16 + 1e-6).all() and (np.abs(ratio[reached] - 1) < 0.0443).all()
    assert (codes[~reached] == 255).all() and codes[wanted.argmin()] == 0


def test_no_exponents_have_no_codes() -> None:
    codes, lowest = log_steps.encode_log_steps(np.empty(0, np.float32))
    assert codes.size == 0 and lowest == 0.0
