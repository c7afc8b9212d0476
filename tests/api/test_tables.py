"""Tables of rows with named columns."""

from __future__ import annotations

from typing import NamedTuple

from bitgolf import Table


class Entry(NamedTuple):
    name: str
    size: int
    rate: float | None


ROWS = [Entry("a<b>", 1234567, 0.5), Entry("c", 8, None)]


def test_a_table_is_a_sequence_of_its_rows() -> None:
    table = Table(Entry, ROWS)
    assert list(table) == ROWS and len(table) == 2 and table[0].size == 1234567 and table[-1] == ROWS[1]
    assert table[:1] == Table(Entry, ROWS[:1]) != table and isinstance(table[:1], Table)


def test_columns_have_names_also_without_rows() -> None:
    assert Table(Entry, ROWS).columns == {"name": ["a<b>", "c"], "size": [1234567, 8], "rate": [0.5, None]}
    assert Table(Entry, []).columns == {"name": [], "size": [], "rate": []}


def test_a_table_prints_aligned_numbers() -> None:
    assert repr(Table(Entry, ROWS)).splitlines() == [
        "name       size    rate",
        "a<b>  1,234,567  0.5000",
        "c             8       -",
    ]
    assert repr(Table(Entry, [])) == "name  size  rate"


def test_a_notebook_gets_html_without_markup_of_the_values() -> None:
    html = Table(Entry, ROWS)._repr_html_()
    assert "<td>a&lt;b&gt;</td>" in html and "<b>" not in html and "<th>rate</th>" in html


def test_a_long_table_prints_its_first_and_last_rows() -> None:
    lines = repr(Table(Entry, [Entry(f"row{i}", i, None) for i in range(1000)])).splitlines()
    assert len(lines) == 22 and lines[1].startswith("row0 ") and lines[11].startswith("…") and "row999" in lines[-1]
