"""Figures as SVG: one size, one style, and one palette with colors for light and dark pages.

matplotlib draws them. Text stays text, so that it can be selected and read aloud, and takes the font of the page. Colors
are CSS variables, so that a page changes them without drawing again. Equal figures give equal bytes.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.rcsetup import cycler
from matplotlib.textpath import text_to_path

from bitgolf.errors import printable

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # since matplotlib 3.11

FONT_SIZE = 12.5
"""In px at the size of a figure. On a phone, where a figure is 358 px instead of 420 px wide, it is 10.6 px."""


class Color(NamedTuple):
    """A color by its CSS variable `--NAME`, and its value on a light and on a dark page.

    matplotlib draws with the light value, which is then replaced by the variable: light values are all different.
    """

    name: str
    light: str
    dark: str


TEXT = Color("text", "#1f2430", "#e6e8ec")
MUTED = Color("muted", "#59606e", "#a9b0bc")
AXIS = Color("axis", "#8b93a1", "#6c7480")
GRID = Color("grid", "#e3e6eb", "#2d333c")
PAGE = Color("page", "#fefefe", "#14171c")
MAIN = Color("main", "#0b5fa5", "#6bb3f2")
OTHER = Color("other", "#8a5a00", "#dfb05f")
BETTER = Color("better", "#1a7f4b", "#57c78f")
WORSE = Color("worse", "#b3261e", "#f2857c")
AREAS = (
    Color("area-1", "#cfe3f6", "#1f4468"),
    Color("area-2", "#fbe3c8", "#5c4322"),
    Color("area-3", "#d5ecd9", "#23492f"),
    Color("area-4", "#e6def4", "#43365f"),
    Color("area-5", "#f7dada", "#5b2e33"),
    Color("area-6", "#dcecee", "#23464b"),
)
"""Backgrounds that `TEXT` can be read on."""
SERIES = (MAIN, OTHER, BETTER, WORSE, Color("series-5", "#7a3fb0", "#c39bea"), Color("series-6", "#00707a", "#4fc3cf"))
"""Colors of several things in one chart, in their order."""
SYMBOLS = "●■▲◆▼✚"
"""Symbols of several things in one chart, in their order: they differ in more than their color."""
PALETTE = (TEXT, MUTED, AXIS, GRID, PAGE, *SERIES, *AREAS)

STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bitgolf",
    "figure.dpi": 72,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # part of matplotlib, so texts are laid out alike everywhere
    "font.size": FONT_SIZE,
    "text.parse_math": False,
    "text.color": TEXT.light,
    "axes.edgecolor": AXIS.light,
    "axes.labelcolor": MUTED.light,
    "axes.labelsize": FONT_SIZE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID.light,
    "grid.linewidth": 1.0,
    "xtick.color": AXIS.light,
    "ytick.color": AXIS.light,
    "xtick.labelcolor": MUTED.light,
    "ytick.labelcolor": MUTED.light,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=[color.light for color in (MAIN, OTHER, BETTER, WORSE)]),
}
"""Settings of matplotlib. Those of the user are not used."""


def series_color(series: int) -> Color:
    """The color of the i-th of several things, from 0."""
    return SERIES[series % len(SERIES)]


def series_symbol(series: int) -> int:
    """The index in `SYMBOLS` of the i-th of several things: things of equal color have different symbols."""
    return (series + series // len(SERIES)) % len(SYMBOLS)


def palette_css() -> str:
    """CSS that defines the variables of the palette: light, dark where the reader prefers it, light on paper."""
    light = "".join(f"--{color.name}:{color.light};" for color in PALETTE)
    dark = "".join(f"--{color.name}:{color.dark};" for color in PALETTE)
    return (
        f":root{{{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        ".chart{stroke-linejoin:round}\n"
        ".chart text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
    )


@contextmanager
def chart_style() -> Iterator[None]:
    """Draw in the style of all figures, without the warnings of matplotlib that no reader of a page can act on.

    The browser has the font of the page: characters and scripts that matplotlib's own font lacks are shown. Labels that
    are too wide for the figure are cut.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        for message in (
            "Glyph .* missing from",
            "Matplotlib currently does not support",
            "constrained_layout not applied",
        ):
            warnings.filterwarnings("ignore", message=message)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def new_figure(width: int = 420, height: int = 280) -> tuple[Figure, Axes]:
    """Return an empty figure of this size in px, and its axes. Use it within `chart_style`."""
    figure = Figure(figsize=(width / 72, height / 72))
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.tick_params(length=0)
    return figure, axes


def text_width(text: str) -> float:
    """Width of a text in px, in the widest of the fonts that a page may have."""
    font = FontProperties(family=STYLE["font.family"], size=FONT_SIZE)
    return max(
        (text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n")), default=0
    )


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an SVG element of a page that has `palette_css`.

    name: prefix of all ids of the figure, unique on its page. description: what the figure shows, for screen readers.
    """
    return _svg_element(figure, name, description)


def standalone_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as the contents of an SVG file, which follows the colors that the reader prefers."""
    width, height = figure.get_size_inches() * 72
    size = f' xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
    style = palette_css() + ".chart{background:var(--page)}\n"
    return _svg_element(figure, name, description, size, f"<style>{style}</style>") + "\n"


def _svg_element(figure: Figure, name: str, description: str, attributes: str = "", first: str = "") -> str:
    """The figure as matplotlib writes it, with another opening tag, colors and ids, and without metadata and style."""
    buffer = io.StringIO()
    with chart_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawn = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    drawn = re.sub(
        r"<(metadata|style).*?</\1>\s*", "", drawn, flags=re.DOTALL
    )  # a style would be that of the whole page
    body = re.sub(r"<[^>]+>", lambda tag: _edit_tag(tag[0], name), drawn)
    width, height = figure.get_size_inches() * 72
    label = html.escape(printable(description))
    return (
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}"'
        f' xmlns:xlink="http://www.w3.org/1999/xlink"{attributes}>{first}{body.strip()}'
    )


def _edit_tag(tag: str, name: str) -> str:
    """A tag whose ids begin with `name`, whose colors are variables, and without the font and what has no effect."""
    tag = re.sub(r'(?<=^<g) id="[^"]*"', "", tag)  # ids of groups, to which nothing refers
    tag = re.sub(r" font-family: [^;]*;| transform=\"rotate\(-0 [^\"]*\)\"", "", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \g<1>", tag)  # as matplotlib 3.9 writes it
    tag = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    for color in PALETTE:
        tag = tag.replace(color.light, f"var(--{color.name})")
    return tag
