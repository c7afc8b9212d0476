"""Horizontal bars: values from 0, and steps from value to value."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from bitgolf.errors import printable
from bitgolf.report.charts.labels import TICK_STEPS, number_ticks, short_label
from bitgolf.report.figures import (
    AXIS,
    BETTER,
    MAIN,
    MUTED,
    TEXT,
    WORSE,
    chart_style,
    inline_svg,
    new_figure,
    text_width,
)

ROW_HEIGHT = 22
"""Least height of a row in px."""


class BarRow(NamedTuple):
    """A row of a chart. text: the value as it is printed. marked: in the color of what the chart is about.

    detail: a second line below the label.
    """

    label: str
    value: float
    text: str
    marked: bool = True
    detail: str = ""


def figure_height(rows: int, height: int = ROW_HEIGHT) -> int:
    """Height in px of a figure with this many rows of this height."""
    return max(280, 70 + height * rows)


def bar_chart(name: str, description: str, rows: Sequence[BarRow], *, label: str) -> str:
    """A horizontal bar from 0 for each row, with its value. label: of the axis, with the unit. At least one row."""
    with chart_style():
        figure, axes = new_figure(height=figure_height(len(rows)))
        for i, row in enumerate(rows):
            axes.barh(i, row.value, height=0.62, color=(MAIN if row.marked else AXIS).light)
            axes.annotate(short_label(row.text), (row.value, i), xytext=(5, 0), textcoords="offset points", va="center")
        widest = max(text_width(short_label(row.text)) for row in rows) + 10
        largest = max(max(row.value for row in rows), 1e-9)
        axes.set_xlim(0, largest / (1 - widest / 300))
        number_ticks(axes.xaxis, 5)
        label_rows(axes, rows)
        axes.set_xlabel(printable(label))
        return inline_svg(figure, name, description)


def steps_chart(name: str, description: str, rows: Sequence[BarRow], *, label: str) -> str:
    """How a value changes from row to row: a bar from the previous value to this one, and both as text.

    Lower values are better. The axis begins near the least value, so lengths of bars are differences. label: of the
    axis, with the unit. At least one row.
    """
    values = [row.value for row in rows]
    spread = max(max(values) - min(values), 1e-3 * max(map(abs, values)), 1e-9)
    with chart_style():
        figure, axes = new_figure(height=figure_height(len(rows), 36))
        axes.plot([values[0]], [0], marker="o", markersize=7, color=MAIN.light)
        for i, (before, after) in enumerate(pairwise(values), start=1):
            axes.plot([before, before], [i - 1, i], color=AXIS.light, linewidth=1, linestyle=":")
            color = AXIS if abs(after - before) < 5e-5 else BETTER if after < before else WORSE  # shown as 0.0000
            axes.barh(i, after - before, left=before, height=0.5, color=color.light)
            axes.plot([after, after], [i - 0.25, i + 0.25], color=color.light, linewidth=2.5)
        for i, row in enumerate(rows):
            change = f"\n{row.value - values[i - 1]:+.4f}" if i else ""
            where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
            axes.annotate(short_label(row.text) + change, (1, i), xytext=(4, 0), linespacing=1.1, **where)
        axes.set_xlim(min(values) - 0.12 * spread, max(values) + 0.12 * spread)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=TICK_STEPS))
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        label_rows(axes, rows)
        axes.set_xlabel(printable(label))
        return inline_svg(figure, name, description)


def label_rows(axes: Axes, rows: Sequence[BarRow]) -> None:
    """Names of the rows, from the top. A chart of few rows has no thick bars."""
    axes.set_yticks(range(len(rows)), [short_label(row.label) + "\n" * bool(row.detail) for row in rows])
    axes.tick_params(axis="y", labelcolor=TEXT.light)
    for i, row in enumerate(rows):
        if row.detail:
            where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "top"}
            axes.annotate(short_label(row.detail), (0, i), xytext=(-4, 0), color=MUTED.light, **where)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    spare = max(0, 4 - len(rows)) / 2
    axes.set_ylim(len(rows) - 0.4 + spare, -0.6 - spare)
