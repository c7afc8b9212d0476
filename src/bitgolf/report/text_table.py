"""Tables as text that fits a width: numbers are never broken, texts are broken at words.

If the columns do not fit side by side, they are printed below each other in several blocks, each with the first column.
A word that is too long for its column, such as a path, stands on a line of its own, whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from bitgolf.report.wrapping import columns_of, wrap

GAP = 2
"""Columns between two cells of a row."""
LONGEST_WORD = 0.4
"""Share of the width up to which the longest word widens a column of text."""

Row = Sequence[str]


class TableColumn(NamedTuple):
    """A column of a table: its heading and cells. text: whether it holds texts, on the left, or numbers, on the right."""

    heading: str
    cells: list[str]
    text: bool

    @property
    def natural(self) -> int:
        """Width without any break."""
        return max(map(columns_of, (self.heading, *self.cells)), default=0)

    def least(self, width: int) -> int:
        """Least width in a table of `width` columns: of the longest number, or of the longest word up to a limit."""
        words = self.heading.split() + (" ".join(self.cells).split() if self.text else [])
        longest = min(max(map(columns_of, words), default=0), int(LONGEST_WORD * width))
        return longest if self.text else max(longest, *map(columns_of, self.cells), 0)

    def without_long_words(self, longest: int) -> TableColumn:
        """The column without the texts that have a word of more than `longest` columns."""
        fitting = [cell for cell in self.cells if all(columns_of(word) <= longest for word in cell.split())]
        return self._replace(cells=fitting if self.text else self.cells)


def text_table(headings: Row, rows: Iterable[Row], *, text_columns: int = 1, width: int) -> list[str]:
    """Return the lines of a table. The first `text_columns` columns hold texts, the others numbers.

    No line is longer than `width`, except one that is a single word or number.
    """
    listed = list(rows)
    columns = [TableColumn(heading, [row[i] for row in listed], i < text_columns) for i, heading in enumerate(headings)]
    lines = list[str]()
    for block in _blocks(columns, width):
        lines += [""] * bool(lines) + _drawn(block, len(listed), width)
    return lines


def _blocks(columns: list[TableColumn], width: int) -> list[list[TableColumn]]:
    """Divide the columns into blocks whose least widths fit, each with the first column."""
    blocks = [columns[:1]]
    for column in columns[1:]:
        if len(blocks[-1]) > 1 and _least([*blocks[-1], column], width) > width:
            blocks.append(columns[:1])
        blocks[-1].append(column)
    return blocks


def _least(columns: list[TableColumn], width: int) -> int:
    return sum(column.least(width) for column in columns) + GAP * (len(columns) - 1)


def _widths(columns: list[TableColumn], width: int) -> list[int]:
    """The width of each column: its natural one, or less, where they do not fit side by side."""
    least = [column.least(width) for column in columns]
    gaps, found = GAP * (len(columns) - 1), [column.natural for column in columns]
    if sum(found) + gaps > width:  # cells with a word that is too long stand on lines of their own
        found = [column.without_long_words(size).natural for column, size in zip(columns, least, strict=True)]
    excess = sum(found) + gaps - width
    while excess > 0 and found != least:
        widest = max(range(len(found)), key=lambda i: (found[i] > least[i], found[i]))
        found[widest] -= 1
        excess -= 1
    return found


def _drawn(columns: list[TableColumn], rows: int, width: int) -> list[str]:
    """The lines of columns side by side, with their headings if there are any."""
    widths = _widths(columns, width)
    lines = list[str]()
    if any(column.heading for column in columns):
        headings = [_heading(column.heading, size) for column, size in zip(columns, widths, strict=True)]
        tallest = max(map(len, headings))
        lines += _side_by_side([[""] * (tallest - len(h)) + h for h in headings], columns, widths)
    for i in range(rows):
        lines += _row(columns, [column.cells[i] for column in columns], widths, width)
    return lines


def _heading(text: str, width: int) -> list[str]:
    """The lines of a heading. A word that is too long, such as a path in a recipe, is broken after a dot, or anywhere."""
    lines = list[str]()
    for line in wrap(text, width):
        while columns_of(line) > width:
            end = line.rfind(".", 0, width) + 1 or width
            lines.append(line[:end])
            line = line[end:]
        lines.append(line)
    return lines


def _row(columns: list[TableColumn], cells: list[str], widths: list[int], width: int) -> list[str]:
    """The lines of a row. Before it stands a first cell with a word too long for its column, and after it the others."""
    long = [
        column.text and any(columns_of(word) > size for word in cell.split())
        for column, cell, size in zip(columns, cells, widths, strict=True)
    ]
    broken = [
        [""] if is_long else wrap(cell, size) if column.text else [cell]
        for column, cell, size, is_long in zip(columns, cells, widths, long, strict=True)
    ]
    rest = _side_by_side(broken, columns, widths)
    own = [wrap(cell, width) for cell, is_long in zip(cells, long, strict=True) if is_long]
    before = own.pop(0) if long[0] else []
    return [*before, *(line for line in rest if line), *(line for lines in own for line in lines)]


def _side_by_side(cells: list[list[str]], columns: list[TableColumn], widths: list[int]) -> list[str]:
    """Lines that hold one line of each cell."""
    lines = list[str]()
    for parts in zip_longest(*cells, fillvalue=""):
        padded = list[str]()
        for part, column, size in zip(parts, columns, widths, strict=True):
            space = " " * (size - columns_of(part))
            padded.append(part + space if column.text else space + part)
        lines.append((" " * GAP).join(padded).rstrip())
    return lines
