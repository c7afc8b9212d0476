"""Layout of a treemap: rectangles whose areas are given values, as square as possible (Bruls, Huizing, van Wijk, 2000)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Rectangle(NamedTuple):
    """A rectangle by its corner, width and height, in units of the whole."""

    x: float
    y: float
    width: float
    height: float


def treemap_layout(values: Sequence[float], whole: Rectangle) -> list[Rectangle]:
    """Divide `whole` into one rectangle per value, in the order of the values, with areas in proportion to them.

    values: positive, in descending order.
    """
    scale = whole.width * whole.height / sum(values) if values else 0.0
    areas, placed, rest = [value * scale for value in values], list[Rectangle](), whole
    while len(placed) < len(areas):
        left = areas[len(placed) :]
        side, count = min(rest.width, rest.height), 1
        if not side:  # rounding left nothing for the smallest values
            return placed + [Rectangle(rest.x, rest.y, 0.0, 0.0)] * len(left)
        while count < len(left) and _worst_ratio(left[: count + 1], side) <= _worst_ratio(left[:count], side):
            count += 1
        row, rest = _place_row(left[:count], rest)
        placed += row
    return placed


def _worst_ratio(areas: Sequence[float], side: float) -> float:
    """Largest ratio of the sides of rectangles with these areas, if they fill a strip along `side`."""
    thickness = sum(areas) / side
    return max(max(thickness**2 / area, area / thickness**2) for area in areas)


def _place_row(areas: Sequence[float], rest: Rectangle) -> tuple[list[Rectangle], Rectangle]:
    """Rectangles of these areas in a strip along the shorter side, and what is left of `rest`."""
    row, at = list[Rectangle](), 0.0
    if rest.width >= rest.height:
        thickness = sum(areas) / rest.height
        for area in areas:
            row.append(Rectangle(rest.x, rest.y + at, thickness, area / thickness))
            at += area / thickness
        return row, Rectangle(rest.x + thickness, rest.y, max(rest.width - thickness, 0.0), rest.height)
    thickness = sum(areas) / rest.width
    for area in areas:
        row.append(Rectangle(rest.x + at, rest.y, area / thickness, thickness))
        at += area / thickness
    return row, Rectangle(rest.x, rest.y + thickness, rest.width, max(rest.height - thickness, 0.0))
