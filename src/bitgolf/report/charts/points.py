"""Points: values by row, and two measures against each other with the best trade-offs between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bitgolf.errors import printable
from bitgolf.report.charts.bars import BarRow, figure_height, label_rows
from bitgolf.report.charts.labels import number_ticks, plain_number
from bitgolf.report.figures import (
    AXIS,
    FONT_SIZE,
    MUTED,
    Color,
    chart_style,
    inline_svg,
    new_figure,
    series_color,
    series_symbol,
)

LOGARITHMIC_FROM = 20
"""Ratio of the largest to the least value from which an axis is logarithmic."""
MOST_DOTS = 60
"""Dots of a row of a `dot_chart`."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""Markers of matplotlib for the symbols of `figures.SYMBOLS`."""


class ScatterPoint(NamedTuple):
    """A point of a chart of two measures. series: number of its color and symbol."""

    x: float
    y: float
    series: int


class DotRow(NamedTuple):
    """A row of dots. mean, deviation: drawn as a line and a range around it; None for none."""

    label: str
    values: Sequence[float]
    series: int = 0
    mean: float | None = None
    deviation: float | None = None


def pareto_frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats in both measures, by ascending x. Lower is better in both.

    Of equal points all are kept.
    """
    order = sorted(range(len(points)), key=lambda i: points[i])
    found, least = list[int](), math.inf
    for i in order:
        y = points[i][1]
        if y < least or (found and points[i] == points[found[-1]]):
            found.append(i)
            least = y
    return found


def scatter_chart(name: str, description: str, points: Sequence[ScatterPoint], *, labels: tuple[str, str]) -> str:
    """Points by two measures, of which less is better, and the Pareto frontier as a line of steps. At least one point.

    labels: of the two axes, with units. An axis over a large range of positive values is logarithmic.
    """
    with chart_style():
        figure, axes = new_figure()
        frontier = [points[i] for i in pareto_frontier([point[:2] for point in points])]
        axes.step([p.x for p in frontier], [p.y for p in frontier], where="post", color=AXIS.light, linewidth=1.2)
        for series in sorted({point.series for point in points}):
            own = [point for point in points if point.series == series]
            _draw_points(axes, own, series_color(series), MARKERS[series_symbol(series)])
        axes.plot(
            [p.x for p in frontier], [p.y for p in frontier], linestyle="", marker="o", markersize=12,
            markerfacecolor="none", markeredgecolor=MUTED.light,
        )  # fmt: skip
        for axis, values in ((axes.xaxis, [p.x for p in points]), (axes.yaxis, [p.y for p in points])):
            _scale(axis, values)
        axes.margins(0.08)
        axes.set_xlabel(printable(labels[0]))
        axes.set_title(printable(labels[1]), loc="left", fontsize=FONT_SIZE, color=MUTED.light)
        return inline_svg(figure, name, description)


def _draw_points(axes: Axes, points: Sequence[ScatterPoint], color: Color, marker: str) -> None:
    style = {"linestyle": "", "marker": marker, "markersize": 6, "color": color.light, "alpha": 0.85}
    axes.plot([point.x for point in points], [point.y for point in points], **style)


def _scale(axis: Axis, values: Sequence[float]) -> None:
    """A logarithmic axis where values range over more than a factor of `LOGARITHMIC_FROM`, else a linear one."""
    if min(values) > 0 and max(values) / min(values) > LOGARITHMIC_FROM:
        (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=6))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(plain_number))
    else:
        number_ticks(axis, 5)


def evenly_ranked(values: Sequence[float], most: int) -> list[float]:
    """The values in ascending order; if there are more than `most`, so many at even distances in rank, both ends kept."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (most - 1))] for i in range(most)]


def dot_chart(name: str, description: str, rows: Sequence[DotRow], *, label: str) -> str:
    """A row of dots for each label, with mean and range where they are given. At least one row with a value.

    label: of the axis, with the unit.
    """
    with chart_style():
        figure, axes = new_figure(height=figure_height(len(rows)))
        for i, row in enumerate(rows):
            color = series_color(row.series).light
            style = {"linestyle": "", "marker": MARKERS[series_symbol(row.series)], "markersize": 5.5, "alpha": 0.7}
            values = evenly_ranked(row.values, MOST_DOTS)
            axes.plot(values, [i] * len(values), color=color, **style)
            if row.mean is not None:
                axes.plot([row.mean] * 2, [i - 0.32, i + 0.32], color=color, linewidth=2.2)
            if row.mean is not None and row.deviation is not None:
                axes.plot([row.mean - row.deviation, row.mean + row.deviation], [i, i], color=color, linewidth=1.2)
        label_rows(axes, [BarRow(row.label, 0.0, "") for row in rows])
        _scale(axes.xaxis, [value for row in rows for value in row.values])
        axes.margins(x=0.06)
        axes.set_xlabel(printable(label))
        return inline_svg(figure, name, description)
