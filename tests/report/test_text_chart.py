"""Charts of text: within their size, the highest point at the top, the first at the left."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.report.text_chart import text_chart
from bitgolf.report.wrapping import columns_of

NUMBERS = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, math.inf, -math.inf]))
POINTS = st.lists(st.tuples(st.integers(0, 10**7), NUMBERS), max_size=30)


@given(POINTS, POINTS, st.integers(24, 120), st.integers(2, 12), st.booleans())
def test_it_keeps_its_size(
    points: list[tuple[float, float]], dots: list[tuple[float, float]], width: int, height: int, braille: bool
) -> None:
    lines = text_chart(points, width=width, height=height, braille=braille, dots=dots)
    assert len(lines) == (height + 1 if any(math.isfinite(y) for _, y in [*points, *dots]) else 0)
    room = max(width, 40)  # labels of large numbers need some
    assert all(columns_of(line) <= room and line == line.rstrip() for line in lines)
    assert braille or all(line.isascii() for line in lines)


def test_a_falling_line_in_ascii() -> None:
    lines = text_chart([(0, 3.0), (10, 1.0)], width=16, height=3, braille=False, dots=[(10, 2.0)])
    assert lines == [
        "3.000 |***",
        "      |   ***  o",
        "1.000 |      ***",
        "       0      10",
    ]


def test_a_falling_line_in_braille() -> None:
    lines = text_chart([(0, 2.0), (1, 1.0)], width=11, height=1)
    assert lines[0].startswith("2.000 │") and lines[0][7:] == "⠉⠒⠤⣀"


@pytest.mark.parametrize("braille", [True, False])
def test_many_points_of_a_column_are_one_mean(braille: bool) -> None:
    noisy = [(step, 5.0 + (-1) ** step) for step in range(1000)]
    lines = text_chart([*noisy, (1000, 8.0), (1001, 2.0)], width=60, height=9, braille=braille)
    assert [bool(line[8:40].strip()) for line in lines[:9]] == [False] * 4 + [True] + [False] * 4


def test_a_single_point() -> None:
    assert text_chart([(7, 1.5)], width=20, height=3, braille=False)[1:] == ["      |*", "1.500 |", "       7"]
