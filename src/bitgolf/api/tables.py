"""Tables: rows with named columns, which print as text and as HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Generic, TypeVar, overload

Row = TypeVar("Row", bound=tuple[Any, ...], covariant=True)
SHOWN_ROWS = 20
"""Rows that the printed form of a table has; of a longer one, the first and the last."""


class Table(Sequence[Row], Generic[Row]):
    """A sequence of rows of one type, a `NamedTuple`. `pandas.DataFrame(table)` has the same columns.

    kind: the type of the rows, which gives the names of the columns.
    """

    def __init__(self, kind: type[Row], rows: Iterable[Row]) -> None:
        self.kind, self._rows = kind, list(rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.kind._fields  # pyright: ignore[reportAttributeAccessIssue]  # of a NamedTuple

    @property
    def columns(self) -> dict[str, list[Any]]:
        """Name of a column -> its values, in the order of the rows."""
        return {name: [row[i] for row in self._rows] for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Table[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Table[Row]:
        return Table(self.kind, self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and (self.kind, self._rows) == (other.kind, other._rows)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # it has `__eq__`

    def __repr__(self) -> str:
        """The table as text, with numbers to the right."""
        rows = self._shown()
        numeric = [all(_is_number(row[i]) for row in self._rows) for i in range(len(self.names))]
        cells = [list(self.names), *(["…"] * len(self.names) if row is None else list(map(_cell, row)) for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.names))]
        lines = (
            "  ".join(
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(line, widths, numeric, strict=True)
            )
            for line in cells
        )
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """The table as HTML, which notebooks display."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.names)
        rows = (["…"] * len(self.names) if row is None else map(_cell, row) for row in self._shown())
        body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _shown(self) -> list[Row | None]:
        """The rows to print; None stands for those that are left out."""
        if len(self._rows) <= SHOWN_ROWS:
            return [*self._rows]
        return [*self._rows[: SHOWN_ROWS // 2], None, *self._rows[-(SHOWN_ROWS // 2) :]]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
