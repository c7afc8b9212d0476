"""Lines over an axis such as steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from matplotlib.axes import Axes

from bitgolf.errors import printable
from bitgolf.report.charts.labels import number_ticks
from bitgolf.report.figures import (
    AXIS,
    FONT_SIZE,
    MUTED,
    OTHER,
    PAGE,
    Color,
    chart_style,
    inline_svg,
    new_figure,
    series_color,
    text_width,
)

MOST_BUCKETS = 300
"""About the number of points of a line."""
MOST_TICKS = 100


class Level(NamedTuple):
    """A value of the vertical axis that a chart marks."""

    value: float
    label: str


class Ticks(NamedTuple):
    """Places of the horizontal axis that small triangles mark."""

    places: Sequence[float]
    color: Color


class Line(NamedTuple):
    """A line of several. series: number of its color and dashes."""

    points: Sequence[tuple[float, float]]
    series: int


class Bucket(NamedTuple):
    """Successive points of a line: the last x, and the mean, least and largest y."""

    x: float
    mean: float
    low: float
    high: float


def line_chart(
    name: str,
    description: str,
    points: Sequence[tuple[float, float]],
    *,
    labels: tuple[str, str],
    levels: Sequence[Level] = (),
    marks: Sequence[tuple[float, str]] = (),
    dots: Sequence[tuple[float, float]] = (),
    ticks: Sequence[Ticks] = (),
    from_zero: bool = False,
) -> str:
    """A line through (x, y), the mean of successive points, on a band from the least to the largest of them.

    labels: of the two axes, with units. levels: values that are marked. marks: (x, label) of vertical lines. dots: (x, y)
    of a second quantity with the same unit. Points that are not finite interrupt the line. points: at least one of them
    finite. from_zero: the vertical axis begins at 0.
    """
    with chart_style():
        figure, axes = new_figure()
        _draw_line(axes, points, series=0, band=True)
        if shown := [(x, y) for x, y in dots if math.isfinite(y)]:
            axes.plot(*zip(*shown, strict=True), color=OTHER.light, marker="o", markersize=4, linewidth=1)
        _label_axes(axes, labels)
        if from_zero:
            axes.set_ylim(bottom=0)
        _draw_levels(axes, levels)
        _draw_marks(axes, marks)
        for kind in ticks:
            style = {"marker": "^", "markersize": 6, "linestyle": "", "color": kind.color.light, "clip_on": False}
            places = kind.places[:: 1 + len(kind.places) // MOST_TICKS]
            axes.plot(places, [0.0] * len(places), transform=axes.get_xaxis_transform(), **style)
        return inline_svg(figure, name, description)


def lines_chart(name: str, description: str, lines: Sequence[Line], *, labels: tuple[str, str]) -> str:
    """Several lines over each other, each the mean of successive points. lines: with finite points, at least one.

    The vertical axis ends below the highest tenth of the points, such as those of the first steps of a training.
    """
    with chart_style():
        figure, axes = new_figure()
        for line in lines:
            _draw_line(axes, line.points, series=line.series, band=False)
        _label_axes(axes, labels)
        ordered = sorted(y for line in lines for _, y in line.points if math.isfinite(y))
        low, high = ordered[0], ordered[int(0.9 * (len(ordered) - 1))]
        if high > low:
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        return inline_svg(figure, name, description)


def _draw_line(axes: Axes, points: Sequence[tuple[float, float]], *, series: int, band: bool) -> None:
    color = series_color(series).light
    for run in thinned(points, MOST_BUCKETS if band else MOST_BUCKETS // 3):
        x, mean, low, high = ([getattr(bucket, key) for bucket in run] for key in Bucket._fields)
        if band:
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        dashes = DASHES[series % len(DASHES)]
        axes.plot(x, mean, color=color, linestyle=dashes, marker="o" if len(run) == 1 else "", markersize=4)


DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
"""Lines of different series differ in more than their color."""


def _label_axes(axes: Axes, labels: tuple[str, str]) -> None:
    axes.set_xlabel(printable(labels[0]))
    axes.set_title(printable(labels[1]), loc="left", fontsize=FONT_SIZE, color=MUTED.light)
    number_ticks(axes.xaxis, 5, integer=True)
    number_ticks(axes.yaxis, 7)


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_BUCKETS) -> list[list[Bucket]]:
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
