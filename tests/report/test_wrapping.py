"""Breaking of lines: nothing is lost, nothing is wider than it must be."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgolf.report.wrapping import columns_of, line_width, wrap

WORDS = st.lists(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=30), max_size=20)


@given(WORDS, st.integers(20, 100), st.sampled_from(["", "  ", "[  1.0 s] "]))
def test_lines_fit_and_no_word_is_lost(words: list[str], width: int, first: str) -> None:
    text = " ".join(words)
    lines = wrap(text, width, first=first, rest=" " * len(first))
    assert "".join(lines).replace(" ", "") == (first + text).replace(" ", "")
    for line in lines:
        assert columns_of(line) <= width or len(line.split()) == 1


def test_a_short_text_is_left_as_it_is() -> None:
    assert wrap("  a  b", 20) == ["  a  b"]
    assert wrap("one\n  two", 20, first="> ", rest="| ") == ["> one", "|   two"]


def test_a_path_that_does_not_fit_stands_alone() -> None:
    path = "/a/very/long/path/of/a/run/folder"
    assert wrap(f"written to {path} with its settings", 24, first="[1 s] ", rest="      ") == [
        "[1 s] written to",
        path,
        "      with its settings",
    ]


def test_a_number_stays_with_its_unit() -> None:
    assert wrap("the file has 373,100 / 1,000,000 bytes", 32) == ["the file has", "373,100 / 1,000,000 bytes"]
    assert wrap("it took about 20 s", 16) == ["it took about", "20 s"]


def test_a_continued_line_of_a_shell_keeps_its_backslash() -> None:
    assert wrap("bitgolf generate /some/path \\", 27)[-1] == "/some/path \\"


def test_wide_characters_take_two_columns() -> None:
    assert columns_of("日本e\u0301") == 5
    assert wrap("日本 日本", 5) == ["日本", "日本"]


def test_the_width_is_that_of_columns_else_80(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert line_width(io.StringIO()) == line_width(None) == 80
    monkeypatch.setenv("COLUMNS", "123")
    assert line_width(io.StringIO()) == 123
    monkeypatch.setenv("COLUMNS", "wide")
    assert line_width(io.StringIO()) == 80
