"""Areas in proportion to values."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Rectangle as RectanglePatch

from bitgolf.report.charts.bars import BarRow
from bitgolf.report.charts.labels import short_label
from bitgolf.report.charts.treemap import Rectangle, treemap_layout
from bitgolf.report.figures import AREAS, FONT_SIZE, PAGE, Color, chart_style, inline_svg, new_figure, text_width


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
