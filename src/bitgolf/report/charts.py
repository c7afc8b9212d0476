"""Charts of plain values, as SVG elements of a page: lines, bars, steps from value to value, and areas.

`name` is a prefix of all ids of a chart, unique on its page; `description` says what it shows, for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle as RectanglePatch
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from bitgolf.errors import printable
from bitgolf.report.figures import (
    AREAS,
    AXIS,
    BETTER,
    FONT_SIZE,
    MAIN,
    MUTED,
    OTHER,
    PAGE,
    TEXT,
    WORSE,
    Color,
    chart_style,
    inline_svg,
    new_figure,
    text_width,
)
from bitgolf.report.treemap import Rectangle, treemap_layout

LONGEST_LABEL = 22
"""Characters of a label; a longer one loses its end."""
TICK_STEPS = [1, 2, 5, 10]


class BarRow(NamedTuple):
    """A row of a chart. text: the value as it is printed. marked: in the color of what the chart is about."""

    label: str
    value: float
    text: str
    marked: bool = True


class Level(NamedTuple):
    """A value of the vertical axis that a chart marks."""

    value: float
    label: str


class Bucket(NamedTuple):
    """Successive points of a line: the last x, and the mean, least and largest y."""

    x: float
    mean: float
    low: float
    high: float


def short_label(text: str) -> str:
    """A label without control characters, of at most `LONGEST_LABEL` characters."""
    text = printable(text)
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


# ---- lines ---------------------------------------------------------------------------------------------------------


def line_chart(
    name: str,
    description: str,
    points: Sequence[tuple[float, float]],
    *,
    labels: tuple[str, str],
    levels: Sequence[Level] = (),
    marks: Sequence[tuple[float, str]] = (),
    dots: Sequence[tuple[float, float]] = (),
) -> str:
    """A line through (x, y), the mean of successive points, on a band from the least to the largest of them.

    labels: of the two axes, with units. levels: values that are marked. marks: (x, label) of vertical lines. dots: (x, y)
    of a second quantity with the same unit. Points that are not finite interrupt the line. points: at least one of them
    finite.
    """
    with chart_style():
        figure, axes = new_figure()
        for run in thinned(points):
            x, mean, low, high = ([getattr(bucket, key) for bucket in run] for key in Bucket._fields)
            axes.fill_between(x, low, high, color=MAIN.light, alpha=0.2, linewidth=0)
            axes.plot(x, mean, color=MAIN.light, marker="o" if len(run) == 1 else "", markersize=4)
        if shown := [(x, y) for x, y in dots if math.isfinite(y)]:
            axes.plot(*zip(*shown, strict=True), color=OTHER.light, marker="o", markersize=4, linewidth=1)
        axes.set_xlabel(printable(labels[0]))
        axes.set_title(printable(labels[1]), loc="left", fontsize=FONT_SIZE, color=MUTED.light)
        axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=TICK_STEPS, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=TICK_STEPS))
        _draw_levels(axes, levels)
        _draw_marks(axes, marks)
        return inline_svg(figure, name, description)


def plain_number(value: float, _position: int = 0) -> str:
    """A number at a tick: with separators of thousands, without an exponent below a million million."""
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e12 else f"{value:.4g}"


def thinned(points: Sequence[tuple[float, float]], most: int = 300) -> list[list[Bucket]]:
    """At most about `most` buckets of successive points, in the pieces between points that are not finite."""
    size = max(1, math.ceil(len(points) / most))
    pieces = [list(piece) for finite, piece in groupby(points, key=lambda point: math.isfinite(point[1])) if finite]
    pieces = sorted(sorted(pieces, key=len, reverse=True)[:most], key=lambda piece: piece[0][0])
    return [[_bucket(piece[i : i + size]) for i in range(0, len(piece), size)] for piece in pieces]


def _bucket(points: Sequence[tuple[float, float]]) -> Bucket:
    values = [y for _, y in points]
    return Bucket(points[-1][0], sum(values) / len(values), min(values), max(values))


def _draw_levels(axes: Axes, levels: Sequence[Level]) -> None:
    """Dashed lines. Lines that are closer than a line of text share one label, below the lowest of them."""
    for level in levels:
        axes.axhline(level.value, color=OTHER.light, linewidth=1.2, linestyle=(0, (5, 3)))
    low, high = axes.get_ylim()
    room = (high - low) / 12  # the height of a label
    groups: list[list[Level]] = []
    for level in sorted(levels, reverse=True):
        if groups and groups[-1][-1].value - level.value < 1.2 * room:
            groups[-1].append(level)
        else:
            groups.append([level])
    for group in groups:
        text, lowest = "\n".join(printable(level.label) for level in group), group[-1].value
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "top"}
        ground = {"facecolor": PAGE.light, "edgecolor": "none", "alpha": 0.75, "pad": 1}  # the line may pass behind it
        axes.annotate(text, (1, lowest), xytext=(-2, -3), color=OTHER.light, bbox=ground, **where)
        low = min(low, lowest - (0.6 + len(group)) * room * 1.3)
    axes.set_ylim(low, high)


def _draw_marks(axes: Axes, marks: Sequence[tuple[float, str]]) -> None:
    """Dotted vertical lines with labels at the top, as far as these do not overlap."""
    low, high = axes.get_xlim()
    end = -math.inf
    for x, label in sorted((x, printable(label)) for x, label in marks):
        axes.axvline(x, color=AXIS.light, linewidth=1.2, linestyle=":")
        width = (text_width(label) + 8) / 340 * (high - low)  # the axes are about 340 px wide
        if x >= end and x + width <= high:
            where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top"}
            axes.annotate(label, (x, 1), xytext=(4, 0), color=MUTED.light, **where)
            end = x + width


# ---- bars ----------------------------------------------------------------------------------------------------------


def bar_chart(name: str, description: str, rows: Sequence[BarRow], *, label: str) -> str:
    """A horizontal bar from 0 for each row, with its value. label: of the axis, with the unit. At least one row."""
    with chart_style():
        figure, axes = new_figure()
        for i, row in enumerate(rows):
            axes.barh(i, row.value, height=0.62, color=(MAIN if row.marked else AXIS).light)
            axes.annotate(short_label(row.text), (row.value, i), xytext=(5, 0), textcoords="offset points", va="center")
        widest = max(text_width(short_label(row.text)) for row in rows) + 10
        largest = max(max(row.value for row in rows), 1e-9)
        axes.set_xlim(0, largest / (1 - widest / 300))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=TICK_STEPS))
        axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
        _label_rows(axes, [row.label for row in rows])
        axes.set_xlabel(printable(label))
        return inline_svg(figure, name, description)


def steps_chart(name: str, description: str, rows: Sequence[BarRow], *, label: str) -> str:
    """How a value changes from row to row: a bar from the previous value to this one, and both as text.

    Lower values are better. The axis begins near the least value, so lengths of bars are differences. label: of the
    axis, with the unit. At least one row.
    """
    values = [row.value for row in rows]
    spread = max(max(values) - min(values), 1e-3 * max(map(abs, values)), 1e-9)
    line_break = "\n" if len(rows) <= 6 else "  "  # a row has the height of two lines
    with chart_style():
        figure, axes = new_figure()
        axes.plot([values[0]], [0], marker="o", markersize=7, color=MAIN.light)
        for i, (before, after) in enumerate(pairwise(values), start=1):
            axes.plot([before, before], [i - 1, i], color=AXIS.light, linewidth=1, linestyle=":")
            color = AXIS if abs(after - before) < 5e-5 else BETTER if after < before else WORSE  # shown as 0.0000
            axes.barh(i, after - before, left=before, height=0.5, color=color.light)
            axes.plot([after, after], [i - 0.25, i + 0.25], color=color.light, linewidth=2.5)
        for i, row in enumerate(rows):
            change = f"{line_break}{row.value - values[i - 1]:+.4f}" if i else ""
            where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
            axes.annotate(short_label(row.text) + change, (1, i), xytext=(4, 0), linespacing=1.1, **where)
        axes.set_xlim(min(values) - 0.12 * spread, max(values) + 0.12 * spread)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=TICK_STEPS))
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        _label_rows(axes, [row.label for row in rows])
        axes.set_xlabel(printable(label))
        return inline_svg(figure, name, description)


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Names of the rows, from the top. A chart of few rows has no thick bars."""
    axes.set_yticks(range(len(labels)), [short_label(label) for label in labels])
    axes.tick_params(axis="y", labelcolor=TEXT.light)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    spare = max(0, 4 - len(labels)) / 2
    axes.set_ylim(len(labels) - 0.4 + spare, -0.6 - spare)


# ---- areas ---------------------------------------------------------------------------------------------------------


def area_chart(name: str, description: str, rows: Sequence[BarRow]) -> str:
    """A treemap: each row has an area in proportion to its value, with its label and text where they fit.

    rows: with values above 0, the largest first; at least one. They have the colors of `area_color`.
    """
    with chart_style():
        figure, axes = new_figure()
        axes.set_axis_off()
        whole = Rectangle(0, 0, 412, 272)
        axes.set(xlim=(0, whole.width), ylim=(whole.height, 0))
        for i, (row, area) in enumerate(zip(rows, treemap_layout([row.value for row in rows], whole), strict=True)):
            color = area_color(i).light
            axes.add_patch(RectanglePatch(area[:2], *area[2:], facecolor=color, edgecolor=PAGE.light, linewidth=2))
            if text := _fitting_text(row, area):
                axes.text(area.x + 7, area.y + 6, text, va="top", linespacing=1.3)
        return inline_svg(figure, name, description)


def area_color(i: int) -> Color:
    """The color of the i-th area of an `area_chart`."""
    return AREAS[i % len(AREAS)]


def _fitting_text(row: BarRow, area: Rectangle) -> str:
    """Label and value, one of them, or "", as the area has room. A label may be broken at its first dot."""
    label, value = short_label(row.label), short_label(row.text)
    for text in (f"{label}\n{value}", "\n".join([*label.split(".", 1), value]), label, value):
        if text_width(text) <= area.width - 12 and 1.35 * FONT_SIZE * (text.count("\n") + 1) <= area.height - 8:
            return text
    return ""
