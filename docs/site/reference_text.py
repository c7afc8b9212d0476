"""Plain text of help and docstrings as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

SPECIAL = re.compile(r"([*_<>\[\]|])")
CODE = re.compile(r"(`[^`]*`)")


def escaped(text: str) -> str:
    """Text in which only code spans are Markdown; the other special characters stand for themselves."""
    pieces = CODE.split(text)
    pieces[::2] = [SPECIAL.sub(r"\\\1", piece) for piece in pieces[::2]]
    return "".join(pieces)


def cell(text: str) -> str:
    """Text of one cell of a table."""
    return escaped(" ".join(text.split()))


def code(text: str) -> str:
    """A code span, also in a cell of a table: a bar is written as an entity in an HTML element."""
    return f"`{text}`" if "|" not in text else f"<code>{text.replace('<', '&lt;').replace('|', '&#124;')}</code>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
