"""Text in lines that fit a terminal: the width to fit, and the breaking of lines at words."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from typing import IO

DEFAULT_WIDTH = 80
"""Columns where there is no terminal."""
_JOINED = re.compile(r"[(\[]?[+-]?\d[\d,.:]*|/|->")
"""Words that stay on one line with the next word: a number and its unit, `373,100 / 1,000,000`."""
_LONGEST_JOINED = 40


def line_width(stream: IO[str] | None) -> int:
    """Columns that lines on a stream should fit: COLUMNS if it is set, as by --width, else those of the terminal, else 80."""
    stated = os.environ.get("COLUMNS", "")
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    return terminal_width(stream) or DEFAULT_WIDTH


def terminal_width(stream: IO[str] | None) -> int:
    """Columns of the terminal that a stream writes to, 0 if it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream else 0
    except (OSError, ValueError, AttributeError):  # no terminal, a closed stream, a stream in memory
        return 0


def columns_of(text: str) -> int:
    """Number of columns that a text takes on a terminal: 2 for a wide character, 0 for a combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def wrap(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    """Break a text at spaces into lines of at most `width` columns, and return them.

    first, rest: what the first line and all others begin with. Spaces at the start of the text and its line breaks are
    kept. A word that does not fit a line, such as a long path, stands alone on a line without what lines begin with.
    """
    lines = list[str]()
    for given in text.split("\n"):
        start = first if not lines else rest
        lines += [start + given] if columns_of(start + given) <= width else _broken(given, width, start, rest)
    return [line.rstrip() for line in lines]


def _broken(text: str, width: int, first: str, rest: str) -> Iterator[str]:
    own = text[: len(text) - len(text.lstrip())]
    line, empty = first + own, True
    for word in _words(text, min(_LONGEST_JOINED, width - columns_of(rest + own))):
        space = "" if empty else " "
        if columns_of(line + space + word) <= width:
            line, empty = line + space + word, False
            continue
        if not empty or line.strip():
            yield line
        line, empty = rest + own, True
        if columns_of(line + word) <= width:
            line, empty = line + word, False
        else:
            yield word
    if not empty:
        yield line


def _words(text: str, longest: int) -> list[str]:
    """The words of a text; what should not be separated is joined by spaces to words of at most `longest` columns.

    A backslash, which continues the line of a shell, is never separated from the word before.
    """
    found, join = list[str](), False
    for word in text.split():
        if word == "\\" or (join and columns_of(found[-1]) + columns_of(word) < longest):
            found[-1] += f" {word}"
        else:
            found.append(word)
        join = _JOINED.fullmatch(word) is not None
    return found
