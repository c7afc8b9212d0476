"""Elementary functions: equal to a plain reference bit for bit, and within 0.51 units of the last place of the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.portable.kernels import compiled_kernels
from helpers import portable_reference as reference
from helpers.examples import examples

FLOATS = st.integers(0, 2**32 - 1).map(lambda bits: float(np.uint32(bits).view(np.float32))).filter(lambda x: x == x)
ORDINARY = st.floats(-20, 20, width=32)
NUMBERS = st.lists(FLOATS | ORDINARY, min_size=1, max_size=60).map(lambda values: np.array(values, np.float32))
EXTREMES = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1.17e-38, 3.4e38, -3.4e38, 88.7, -103.9, 2**-10, np.inf, -np.inf], np.float32
)
TRUTH: dict[str, Callable[[float], float]] = {
    "exp": lambda x: math.exp(x) if x < 200 else math.inf,
    "log": lambda x: math.log(x) if x > 0 else -math.inf,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-max(x, -600))),
    "silu": lambda x: x / (1 + math.exp(-max(x, -600))),
}


def computed(name: str, x: Any) -> Any:
    out = np.empty_like(x)
    getattr(compiled_kernels(), name)(x, out)
    return out


@pytest.mark.parametrize("name", TRUTH)
@settings(max_examples=examples(100))
@given(NUMBERS)
def test_functions_equal_the_reference_and_are_accurate(name: str, x: Any) -> None:
    x = np.abs(x) if name == "log" else x
    found = computed(name, x)
    assert found.tobytes() == reference.elementwise(getattr(reference, name), x).tobytes()
    for value, result in zip(x.tolist(), found, strict=True):
        if math.isfinite(value):
            truth = TRUTH[name](value)
            rounded = np.float32(truth)
            assert result == rounded or abs(float(result) - truth) < 0.51 * abs(float(np.spacing(rounded)))


@pytest.mark.parametrize("name", TRUTH)
def test_extremes_equal_the_reference(name: str) -> None:
    x = np.abs(EXTREMES) if name == "log" else EXTREMES
    with np.errstate(all="ignore"):
        expected = reference.elementwise(getattr(reference, name), x)
    assert computed(name, x).tobytes() == expected.tobytes()
    assert np.isnan(computed(name, np.array([np.nan], np.float32))).all()


@settings(max_examples=examples(100))
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(0, 1))
def test_sine_and_cosine_are_accurate(angles: list[float], quarter_turns: int) -> None:
    x = np.array(angles)
    found = np.empty_like(x)
    compiled_kernels().sine(x, quarter_turns, found)
    assert found.tobytes() == np.array([reference.sine(a, quarter_turns) for a in angles]).tobytes()
    truth = np.array([(math.sin, math.cos)[quarter_turns](a) for a in angles])
    assert (np.abs(found - truth) <= 2 * np.spacing(np.abs(truth)) + 2.0**-60).all()


@settings(max_examples=examples(60))
@given(st.floats(2.0**-20, 2.0**20, width=32), st.lists(st.floats(-6, 6, width=32), min_size=2, max_size=20))
def test_powers_equal_the_reference(base: float, exponents: list[float]) -> None:
    bases, powers = np.array([base], np.float32), np.array(exponents, np.float32)
    found = np.empty_like(powers)
    compiled_kernels().power(bases, powers, found)
    logarithm = reference.log(np.float64(bases[0]))
    expected = [np.float32(reference.exp(np.float64(p) * logarithm)) for p in powers]
    assert found.tobytes() == np.array(expected, np.float32).tobytes()
    assert found == pytest.approx(np.float64(bases[0]) ** powers.astype(np.float64), rel=1e-6)
