"""A chart of a line as text: in characters of 2 x 4 dots (braille), or in ASCII where a terminal has nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from bitgolf.report.wrapping import columns_of

Point = tuple[float, float]
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character, by column and row of the dot."""


def text_chart(
    points: Sequence[Point], *, width: int, height: int, braille: bool = True, dots: Sequence[Point] = ()
) -> list[str]:
    """Return the lines of a chart of (x, y) in `width` columns: the curve in `height` lines, and one line with the ends of x.

    dots: points of a second quantity, drawn as circles (o in ASCII). The highest and lowest y stand on the left. Points
    that are not finite are left out; without any other, there are no lines.
    """
    line, marks = ([p for p in given if math.isfinite(p[0]) and math.isfinite(p[1])] for given in (points, dots))
    if not line and not marks:
        return []
    xs, ys = zip(*line, *marks, strict=True)
    low, high = min(ys), max(ys)
    labels = f"{high:.3f}", f"{low:.3f}"
    margin = max(map(columns_of, labels)) + 1
    columns = max(width - margin - 1, 1)
    across, down = (2, 4) if braille else (1, 1)
    scale = _Scale((min(xs), max(xs)), (low, high), columns * across, height * down)
    cells = _curve(line, scale, braille=braille)
    for point in marks:
        column, row = scale.place(point)
        cells[column // across, row // down] = "●" if braille else "o"
    empty, edge = " ", "│" if braille else "|"
    rows = ["".join(cells.get((i, j), empty) for i in range(columns)).rstrip() for j in range(height)]
    left = [label.rjust(margin - 1) for label in (labels[0], *[""] * (height - 2), labels[1])][:height]
    ends = f"{min(xs):,.0f}".ljust(columns)
    last = f"{max(xs):,.0f}"
    ends = ends[: max(columns - len(last), 0)] + last if min(xs) < max(xs) else ends
    return [f"{label} {edge}{row}" for label, row in zip(left, rows, strict=True)] + [
        " " * (margin + 1) + ends.rstrip()
    ]


class _Scale:
    """Places of points in a field of `width` x `height` dots, (0, 0) at the top left."""

    def __init__(self, x: Point, y: Point, width: int, height: int) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height

    def place(self, point: Point) -> tuple[int, int]:
        (left, right), (low, high) = self.x, self.y
        across = (point[0] - left) / (right - left) if right > left else 0.0
        up = (point[1] - low) / (high - low) if high > low else 0.5
        return round(across * (self.width - 1)), round((1 - up) * (self.height - 1))


def _curve(points: Sequence[Point], scale: _Scale, *, braille: bool) -> dict[tuple[int, int], str]:
    """Characters of the curve by column and line: in each column of dots the mean of its points, or of its neighbours."""
    found = dict[tuple[int, int], int]()
    for column, y in _column_means(points, scale).items():
        row = scale.place((scale.x[0], y))[1]
        if not braille:
            found[column, row] = 1
            continue
        cell = column // 2, row // 4
        found[cell] = found.get(cell, 0) | _DOTS[column % 2][row % 4]
    return {cell: chr(0x2800 + bits) if braille else "*" for cell, bits in found.items()}


def _column_means(points: Sequence[Point], scale: _Scale) -> dict[int, float]:
    """Column of dots -> mean y of its points. Columns without points are interpolated between those beside them."""
    values = dict[int, list[float]]()
    for x, y in points:
        values.setdefault(scale.place((x, y))[0], []).append(y)
    means = {column: sum(own) / len(own) for column, own in sorted(values.items())}
    found = dict(means)
    for (left, before), (right, after) in pairwise(means.items()):
        for column in range(left + 1, right):
            found[column] = before + (after - before) * (column - left) / (right - left)
    return found
