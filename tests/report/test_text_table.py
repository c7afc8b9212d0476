"""Tables: they fit the width, numbers are whole, and nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitgolf.report.text_table import text_table
from bitgolf.report.wrapping import columns_of

NAMES = st.lists(st.text("abcdefgh./_-", min_size=1, max_size=60), min_size=1, max_size=4).map(" ".join)
NUMBERS = st.integers(-(10**12), 10**12).map(lambda n: f"{n:,}")


@given(st.data(), st.integers(40, 130), st.integers(1, 3), st.integers(0, 9))
def test_any_table_fits(data: st.DataObject, width: int, texts: int, numbers: int) -> None:
    row = st.tuples(*[NAMES] * texts, *[NUMBERS] * numbers)
    headings, rows = (
        data.draw(st.tuples(*[NAMES] * (texts + numbers))),
        data.draw(st.lists(row, min_size=1, max_size=5)),
    )
    lines = text_table(headings, rows, text_columns=texts, width=width)
    for line in lines:
        assert columns_of(line) <= width or len(line.split()) == 1, line
    words = "\n".join(lines).split()
    for cells in rows:
        for cell in cells:
            assert set(cell.split()) <= set(words), "each word and each number is whole"


def test_columns_stand_side_by_side_where_they_fit() -> None:
    lines = text_table(("stage", "bpb"), [("trained", "2.1234"), ("packed", "2.2")], width=80)
    assert lines == ["stage       bpb", "trained  2.1234", "packed      2.2"]


def test_headings_are_broken_at_words_and_numbers_are_not() -> None:
    lines = text_table(("name", "bpb without adaptation"), [("a", "1.2345"), ("b", "-")], width=20)
    assert lines == [
        "         bpb without",
        "name      adaptation",
        "a             1.2345",
        "b                  -",
    ]


def test_columns_that_do_not_fit_stand_below_with_the_first_one() -> None:
    lines = text_table(("name", "a", "b"), [("one", "1" * 20, "2" * 20)], width=40)
    assert lines == [
        f"name  {'a':>20}",
        f"one   {'1' * 20}",
        "",
        f"name  {'b':>20}",
        f"one   {'2' * 20}",
    ]


def test_a_name_that_is_too_long_stands_before_its_numbers() -> None:
    name = "blocks.0.attention.projection.of.the.query.weight"
    lines = text_table(("name", "bytes"), [(name, "12"), ("b", "3")], width=40)
    assert lines == ["name  bytes", name, "         12", "b         3"]


def test_a_text_is_broken_at_words_beside_the_others() -> None:
    lines = text_table(("name", "what it is"), [("a", "a small model of text")], text_columns=2, width=16)
    assert lines == ["name  what it is", "a     a small", "      model of", "      text"]
