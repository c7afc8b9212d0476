"""Parts of a web page that is one file: no request to a network, readable on a phone, in the dark, on paper.

Arguments named `body` are HTML; all other texts are plain and are escaped here. The style of all pages is `web_page.css`.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

from bitgolf.errors import printable, quoted
from bitgolf.report.figures import SYMBOLS, Color, palette_css, series_color, series_symbol
from bitgolf.report.page_file import PAGE_START

LONGEST_CELL = 400
"""Characters of a cell; a longer text loses its middle and states its length."""


class Tile(NamedTuple):
    """A number at the head of a page. share: length of a bar below it, None for no bar. good: None for neither."""

    title: str
    value: str
    note: str
    share: float | None = None
    good: bool | None = None


def escape(text: object) -> str:
    """A plain text as HTML. Control characters and bytes that are not UTF-8 are written as escapes."""
    return html.escape(printable(str(text)))


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>\n" if text else ""


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1, colors: Sequence[Color] = ()
) -> str:
    """A table that scrolls in a box of its own if it is wide. The columns after `text_columns` are numbers.

    colors: of the first rows, where they stand for areas of a chart.
    """
    kinds = ["" if i < text_columns else " class=number" for i in range(len(columns))]
    head = "".join(f"<th scope=col{kind}>{escape(column)}</th>" for kind, column in zip(kinds, columns, strict=True))
    marks = [f'<span class=mark style="background:var(--{color.name})"></span>' for color in colors]
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True)) + "</tr>\n"
        for cells in map(_cells, rows, chain(marks, repeat("")))
    )
    titles = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f"<div class=scroll tabindex=0><table>{titles}<tbody>\n{body}</tbody></table></div>\n"


def _cells(row: Sequence[str], mark: str) -> list[str]:
    """The cells of a row as HTML, the first after `mark`."""
    first, *others = (escape(quoted(cell, LONGEST_CELL)) for cell in row)
    return [mark + first, *others]


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values, without the rows that have no value."""
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(quoted(value, LONGEST_CELL))}</td></tr>\n"
        for name, value in rows
        if value
    )
    return f"<div class=scroll tabindex=0><table class=facts><tbody>\n{body}</tbody></table></div>\n" if body else ""


def bullets(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(quoted(line, 3 * LONGEST_CELL))}</li>\n" for line in lines)
    return f"<ul>\n{items}</ul>\n" if items else ""


def folded(summary: str, body: str) -> str:
    """A part of a page that a click opens. It is printed open."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def section(title: str, body: str, *, anchor: str = "") -> str:
    """A section, or "" if it has no contents. anchor: its id, for links."""
    place = f' id="{escape(anchor)}"' if anchor else ""
    return f"<section{place}>\n<h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def side_by_side(*sections: str) -> str:
    """Sections beside each other where there is room."""
    return f"<div class=pair>\n{''.join(sections)}</div>\n"


def chart_card(title: str, svg: str, note: str, numbers: str = "") -> str:
    """A chart with its title, a sentence about it, and its numbers as a folded table."""
    table_of_chart = folded(f"Table: {title}", numbers) if numbers else ""
    caption = f"<figcaption>{paragraph(note)}{table_of_chart}</figcaption>"
    return f"<figure>\n<h3>{escape(title)}</h3>\n{svg}\n{caption}</figure>\n"


def legend(names: Sequence[str]) -> str:
    """The names of the things that charts show in the colors and with the symbols of series 0, 1, …"""
    items = "".join(
        f'<li><span class=symbol aria-hidden=true style="color:var(--{series_color(i).name})">'
        f"{SYMBOLS[series_symbol(i)]}</span>{escape(quoted(name, LONGEST_CELL))}</li>\n"
        for i, name in enumerate(names)
    )
    return f"<ul class=legend>\n{items}</ul>\n"


def chart_grid(cards: Sequence[str]) -> str:
    """Charts side by side as the width allows."""
    return f"<div class=charts>\n{''.join(cards)}</div>\n" if cards else ""


def tiles(shown: Iterable[Tile]) -> str:
    return f"<div class=tiles>\n{''.join(map(_tile, shown))}</div>\n"


def _tile(tile: Tile) -> str:
    kind = {None: "", True: " class=good", False: " class=bad"}[tile.good]
    bar = ""
    if tile.share is not None:
        bar = (
            f'<div class=bar aria-hidden=true><span style="width:{100 * min(max(tile.share, 0), 1):.1f}%"></span></div>'
        )
    return (
        f"<div class=tile><h2>{escape(tile.title)}</h2><p class=value>{escape(tile.value)}</p>{bar}"
        f"<p{kind}>{escape(tile.note)}</p></div>\n"
    )


def web_page(title: str, body: str, *, reload_seconds: int = 0, script: str = "", style: str = "") -> str:
    """A whole page. Its policy forbids requests, and all scripts but one, should a text ever escape the escaping.

    reload_seconds: a browser loads the page again after this time; 0 for never.  script: JavaScript that runs when the
    body has been read; it must not contain `</script`.  style: CSS that is added to that of all pages.
    """
    again = f'<meta http-equiv=refresh content="{reload_seconds}">\n' if reload_seconds else ""
    style = palette_css() + Path(__file__).with_suffix(".css").read_text(encoding="utf-8") + style
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    element = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}' 'wasm-unsafe-eval'"
        element = f"<script>{script}</script>\n"
    return f"""{PAGE_START}
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<meta http-equiv=Content-Security-Policy content="{policy}">
{again}<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
{element}</body>
</html>
"""
