"""Charts: well-formed SVG with colors of the page, bounded size, whatever the values and labels are."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from bitgolf.report.charts.areas import area_chart
from bitgolf.report.charts.bars import BarRow, bar_chart, steps_chart
from bitgolf.report.charts.labels import plain_number
from bitgolf.report.charts.lines import Level, Line, Ticks, line_chart, lines_chart, thinned
from bitgolf.report.charts.points import DotRow, ScatterPoint, dot_chart, evenly_ranked, pareto_frontier, scatter_chart
from bitgolf.report.charts.treemap import Rectangle, treemap_layout
from bitgolf.report.figures import (
    AREAS,
    BETTER,
    PALETTE,
    SERIES,
    SYMBOLS,
    chart_style,
    new_figure,
    palette_css,
    series_color,
    series_symbol,
    standalone_svg,
)

ROWS = [BarRow("one", 3.0, "3.0 s"), BarRow("two", 1.0, "1.0 s", marked=False)]
AXES = ("step", "nats per token")


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter() if element.tag.endswith("text")]


def charts(name: str = "a", label: str = "one") -> list[str]:
    """One chart of each kind."""
    rows = [BarRow(label, 3.0, label, detail=label), BarRow("two", 1.0, "1.0 s")]
    points, labels = [(1, 3.0), (2, 2.5)], ("step", label)
    line = line_chart(
        name, label, points, labels=labels, levels=[Level(2.4, label)], marks=[(1, label)], ticks=[Ticks([2], BETTER)]
    )
    return [
        line,
        bar_chart(name, label, rows, label="s"),
        steps_chart(name, label, rows, label="s"),
        area_chart(name, label, rows),
        lines_chart(name, label, [Line(points, 0), Line(points, 5)], labels=labels),
        scatter_chart(name, label, [ScatterPoint(1, 2.0, 0), ScatterPoint(2, 3.0, 1)], labels=labels),
        dot_chart(name, label, [DotRow(label, [1.0, 2.0], 4, 1.5, 0.7)], label="s"),
    ]


# ---- every chart ---------------------------------------------------------------------------------------------------


def test_a_chart_is_an_element_with_a_description_and_text() -> None:
    for svg in charts(label="loss & <time>"):
        root = parsed(svg)
        assert root.attrib["role"] == "img" and root.attrib["aria-label"] == "loss & <time>"
        assert "loss & <time>" in texts(svg), "text is text, not outlines"
        assert not re.search(r"font-family|font: |<style", svg), "the page's style applies"


def test_equal_charts_are_equal_bytes_whatever_the_settings_of_the_user() -> None:
    before = charts()
    with matplotlib.rc_context({"svg.hashsalt": None, "font.size": 30, "text.usetex": True, "savefig.dpi": 300}):
        assert charts() == before
        assert matplotlib.rcParams["font.size"] == 30, "the user's settings are left as they were"


def test_colors_are_those_of_the_page() -> None:
    """Each color is a variable, which `palette_css` defines for light and dark pages."""
    used = {name for svg in charts() for name in re.findall(r"var\(--([\w-]+)\)", svg)}
    assert used <= {color.name for color in PALETTE} and {"main", "grid", "text", "area-1"} <= used
    assert not any(re.search(r"#[0-9a-f]{6}\b", svg) for svg in charts())
    assert len({color.light for color in PALETTE}) == len(PALETTE), "a light value stands for one variable"
    for color in PALETTE:
        assert f"--{color.name}:{color.light};" in palette_css() and f"--{color.name}:{color.dark};" in palette_css()


def test_text_can_be_read_on_its_background() -> None:
    """A contrast of at least 4.5 (WCAG AA), on light and on dark pages."""
    by_name = {color.name: color for color in PALETTE}
    pairs = [(color, by_name["page"]) for color in (by_name["text"], by_name["muted"], *SERIES)]
    pairs += [(by_name["text"], area) for area in AREAS]
    for front, back in pairs:
        for kind in ("light", "dark"):
            assert contrast(getattr(front, kind), getattr(back, kind)) >= 4.5, (front.name, back.name, kind)


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colors, as WCAG 2 defines it."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_ids_of_two_charts_of_a_page_are_different() -> None:
    for first, second in zip(charts("a"), charts("b"), strict=True):
        own, other = (set(re.findall(r' id="([^"]*)"', svg)) for svg in (first, second))
        assert not own & other
        referred = set(re.findall(r'(?:url\(|href=")#([^")]*)', first))
        assert referred <= own, "references are to ids of the same chart"


@settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate))  # a chart takes 0.1 s to draw
@given(st.text(max_size=40))
@example("W" * 40)
@example("$x_1$ \\frac <b> & \udc80\x1f\n名\u202e")
def test_any_label_can_be_drawn(label: str) -> None:
    """Control characters, `$`, markup, surrogates, scripts that the font lacks."""
    for svg in charts(label=label):
        parsed(svg)
        svg.encode()


def test_a_dollar_sign_is_no_formula() -> None:
    assert all("$x_1$" in texts(svg) for svg in charts(label="$x_1$"))


def test_a_file_follows_the_colors_of_the_reader() -> None:
    with chart_style():
        figure, axes = new_figure(300, 200)
        axes.plot([0, 1], [0, 1])
    svg = standalone_svg(figure, "figure", "a line")
    root = parsed(svg)
    assert (root.attrib["width"], root.attrib["height"]) == (
        "300",
        "200",
    ) and root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in svg and "var(--main)" in svg


# ---- lines ---------------------------------------------------------------------------------------------------------


def test_a_long_line_is_thinned_and_keeps_its_extremes() -> None:
    points = [(float(i), 100.0 if i == 4_321 else 1.0) for i in range(100_000)]
    (run,) = thinned(points)
    assert len(run) <= 300 and run[-1].x == 99_999
    assert max(bucket.high for bucket in run) == 100.0 and min(bucket.low for bucket in run) == 1.0
    assert sum(bucket.mean for bucket in run) / len(run) == pytest.approx(1.00099, rel=1e-2)
    assert len(line_chart("a", "a", points, labels=AXES)) < 60_000


@given(st.lists(st.tuples(st.floats(0, 10), st.floats()), max_size=700))
def test_every_finite_point_is_in_a_bucket_up_to_a_limit(values: list[tuple[float, float]]) -> None:
    points = [(float(i), y) for i, (_, y) in enumerate(values)]
    runs = thinned(points, most=1_000)
    finite = [y for _, y in points if math.isfinite(y)]
    assert [bucket.mean for run in runs for bucket in run] == finite
    assert sum(map(len, thinned(points, most=20))) <= 60


def test_points_that_are_not_finite_interrupt_the_line() -> None:
    points = [(1.0, 3.0), (2.0, math.nan), (3.0, 2.0), (4.0, 1.0), (5.0, math.inf), (6.0, 1.0)]
    assert [[bucket.x for bucket in run] for run in thinned(points)] == [[1.0], [3.0, 4.0], [6.0]]
    svg = line_chart("a", "a", points, labels=AXES)
    assert "nan" not in svg and "inf" not in svg.lower()


def test_a_single_point_is_visible() -> None:
    circle = r"<path [^>]*d=\"M[^\"]*C[^\"]*\""  # of curves; lines and bands have none
    assert re.search(circle, line_chart("a", "a", [(1, 3.0)], labels=AXES))
    assert not re.search(circle, line_chart("a", "a", [(1, 3.0), (2, 3.0)], labels=AXES))


def test_levels_that_are_close_share_a_label() -> None:
    points = [(float(i), 5 - i / 100) for i in range(400)]
    near = line_chart("a", "a", points, labels=AXES, levels=[Level(1.5, "one"), Level(1.51, "two")])
    apart = line_chart("a", "a", points, labels=AXES, levels=[Level(1.5, "one"), Level(3.0, "two")])
    heights = [[text_height(svg, label) for label in ("one", "two")] for svg in (near, apart)]
    assert all(abs(a - b) > 12 for a, b in heights), "no label lies on another"


def text_height(svg: str, text: str) -> float:
    """The vertical position of a text, in px."""
    found = next(element for element in parsed(svg).iter() if element.tag.endswith("text") and element.text == text)
    return (
        float(found.attrib["y"]) if "y" in found.attrib else float(re.findall(r"[\d.]+", found.attrib["transform"])[1])
    )


def test_places_of_events_are_marked_on_the_axis() -> None:
    plain = line_chart("a", "a", [(1, 3.0), (9, 2.0)], labels=AXES)
    marked = line_chart("a", "a", [(1, 3.0), (9, 2.0)], labels=AXES, ticks=[Ticks([2, 5], BETTER)])
    assert "--better" not in plain and marked.count("<use") - plain.count("<use") == 2


def test_an_axis_may_begin_at_zero() -> None:
    ticks = [
        texts(line_chart("a", "a", [(1, 103.0), (9, 102.0)], labels=AXES, from_zero=zero)) for zero in (False, True)
    ]
    assert ["0" in found for found in ticks] == [False, True]


# ---- several things ------------------------------------------------------------------------------------------------


def test_things_differ_in_color_or_symbol() -> None:
    looks = [(series_color(i), SYMBOLS[series_symbol(i)]) for i in range(len(SERIES) * len(SYMBOLS))]
    assert len(set(looks)) == len(looks)
    svg = lines_chart("a", "a", [Line([(1, 3.0), (2, 1.0)], i) for i in range(3)], labels=AXES)
    assert all(f"var(--{color.name})" in svg for color in SERIES[:3]) and svg.count("stroke-dasharray") == 2


MEASURES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


@given(MEASURES)
def test_the_frontier_has_the_points_that_none_beats(points: list[tuple[int, int]]) -> None:
    found = pareto_frontier(points)
    beaten = {i for i, (x, y) in enumerate(points) if any(a <= x and b <= y and (a, b) != (x, y) for a, b in points)}
    assert sorted(found) == sorted(set(range(len(points))) - beaten)
    assert [points[i] for i in found] == sorted(points[i] for i in found)


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [1e-9, 1e9], [-1.0, 5.0], [1.7, 1.7 + 1e-15]])
def test_points_of_extreme_values_can_be_drawn(values: list[float]) -> None:
    points = [ScatterPoint(value, 1.0 + value, 9) for value in values]
    for svg in (scatter_chart("a", "a", points, labels=AXES), dot_chart("a", "a", [DotRow("r", values)], label="s")):
        parsed(svg)
        assert "nan" not in svg


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(2, 20))
def test_many_dots_are_thinned_and_keep_their_ends(values: list[float], most: int) -> None:
    found = evenly_ranked(values, most)
    assert len(found) == min(len(values), most) and found == sorted(found)
    assert not values or (found[0], found[-1]) == (min(values), max(values))


def test_a_large_range_has_a_logarithmic_axis() -> None:
    def ticks(*values: float) -> set[str]:
        return set(texts(dot_chart("a", "a", [DotRow("r", values)], label="s")))

    assert {"1", "10", "100"} <= ticks(1.0, 200.0) and "10" not in ticks(150.0, 200.0)


def test_numbers_at_ticks() -> None:
    values = (0.0, 0.25, 999.5, 1_500.0, 2e6, 1e12)
    assert list(map(plain_number, values)) == ["0", "0.25", "999.5", "1,500", "2,000,000", "1e+12"]
    assert [plain_number(1.09 + i * 0.0005, 0.0005) for i in range(3)] == ["1.09", "1.0905", "1.091"]
    assert [plain_number(15_000 + i / 2, 0.5) for i in range(2)] == ["15,000.0", "15,000.5"]


@given(st.floats(1e-3, 1e6), st.floats(-6, 0))
def test_numbers_at_ticks_differ(start: float, exponent: float) -> None:
    step = start * 10**exponent
    ticks = [plain_number(start + i * step, step) for i in range(5)]
    assert len(set(ticks)) == 5 and all("e" not in tick for tick in ticks if start >= 0.1)


def test_the_end_of_several_lines_is_not_squeezed_by_their_start() -> None:
    points = [(float(i), 2.0 + 8 * (i < 5) + 0.1 * (i % 2)) for i in range(100)]
    heights = [
        float(t) for t in texts(lines_chart("a", "a", [Line(points, 0)], labels=AXES)) if re.fullmatch(r"[\d.]+", t)
    ]
    assert len([t for t in heights if 2.0 <= t <= 2.2]) >= 3 and 10.0 not in heights


# ---- bars and areas ------------------------------------------------------------------------------------------------


def test_bars_have_names_and_values() -> None:
    for svg in (bar_chart("a", "a", ROWS, label="seconds"), steps_chart("a", "a", ROWS, label="seconds")):
        assert {"one", "two", "3.0 s", "1.0 s", "seconds"} <= set(texts(svg))
    assert "-2.0000" in texts(steps_chart("a", "a", ROWS, label="s")), "the change is written"


def test_ticks_of_close_values_differ() -> None:
    rows = [BarRow("one", 1.8, ""), BarRow("two", 1.8001, "")]
    ticks = [text for text in texts(steps_chart("a", "a", rows, label="s")) if re.fullmatch(r"[\d.]+", text)]
    assert len(ticks) >= 2 and len(set(ticks)) == len(ticks)


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [0.0, 0.0], [1e-12, 1e12], [1.7, 1.7 + 1e-15]])
def test_bars_of_extreme_values_can_be_drawn(values: list[float]) -> None:
    rows = [BarRow(str(i), value, f"{value:.4g}") for i, value in enumerate(values)]
    for draw in (bar_chart, steps_chart):
        assert "nan" not in draw("a", "a", rows, label="s")


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60))
def test_areas_are_in_proportion_and_fill_the_whole(sizes: list[int]) -> None:
    values = sorted(sizes, reverse=True)
    placed = treemap_layout(values, Rectangle(0, 0, 400, 300))
    total = sum(values)
    for value, area in zip(values, placed, strict=True):
        assert area.width * area.height == pytest.approx(120_000 * value / total, rel=1e-3, abs=1e-4)
        assert area.x >= -1e-6 and area.x + area.width <= 400 + 1e-3
        assert area.y >= -1e-6 and area.y + area.height <= 300 + 1e-3
    for i, a in enumerate(placed):
        for b in placed[:i]:
            width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
            height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
            assert min(width, height) <= 1e-6, "no area lies on another"


def test_areas_without_room_have_no_text() -> None:
    rows = [BarRow("large", 1e6, "1,000,000"), BarRow("tiny", 1.0, "1")]
    assert texts(area_chart("a", "a", rows)) == ["large", "1,000,000"]
