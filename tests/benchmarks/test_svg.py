"""Charts are well-formed, and their lengths are in proportion."""

import re
from xml.etree import ElementTree as ET

import pytest

from benchmarks import svg

_SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_values() -> None:
    drawn = ET.fromstring(svg.bars("A <title> & more", {"g": {"a": 100.0, "b": 50.0}, "h": {"a": 0.0}}))
    widths = [float(bar.attrib["width"]) for bar in drawn.iter(f"{_SVG}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[2] == 1.0
    texts = [text.text for text in drawn.iter(f"{_SVG}text")]
    assert texts[0] == "A <title> & more"
    assert {"g, a", "b", "h", "100", "50", "0"} <= set(texts)


def test_bars_stay_in_the_picture_and_the_mark_has_its_place() -> None:
    drawn = ET.fromstring(svg.bars("t", {"g": {"": 0.5}}, mark=1.0))
    (bar,) = drawn.iter(f"{_SVG}rect")
    (line,) = drawn.iter(f"{_SVG}line")
    middle = float(bar.attrib["x"]) + float(bar.attrib["width"]) * 2
    assert float(line.attrib["x1"]) == pytest.approx(middle, abs=0.2)
    assert float(line.attrib["x1"]) <= float(drawn.attrib["width"])


def test_nothing_to_draw_is_drawn() -> None:
    ET.fromstring(svg.bars("t", {}))
    ET.fromstring(svg.lines("t", "s", [], {}))


def test_lines_have_a_point_for_each_figure_and_higher_is_more() -> None:
    drawn = ET.fromstring(svg.lines("t", "minutes", [0.0, 1.0, 2.0], {"a": [0.0, 5.0, 10.0], "b": [1.0, 1.0, 1.0]}))
    first, second = drawn.iter(f"{_SVG}polyline")
    points = [tuple(map(float, pair.split(","))) for pair in first.attrib["points"].split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[0][1] > points[1][1] > points[2][1]
    assert len(second.attrib["points"].split()) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0123456, "0.0123"), (1.0, "1"), (1.2, "1.2"), (9.999, "10"), (12.345, "12.3"), (35_120.4, "35,120")],
)
def test_figures_have_three_digits_that_count(value: float, text: str) -> None:
    assert svg.number_text(value) == text


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (1.1, 2), (2.2, 2.5), (26, 50), (700, 1000)])
def test_axes_end_at_a_round_figure(value: float, top: float) -> None:
    assert svg.ceiling(value) == pytest.approx(top)


def test_there_are_no_scripts_nor_fonts_from_elsewhere() -> None:
    text = svg.lines("t", "s", [0.0, 1.0], {"a": [1.0, 2.0]})
    assert not re.search(r"<script|href|url\(", text)


def test_panels_are_one_below_the_other_over_one_x() -> None:
    panels = [svg.Panel("first", {"a": [0.0, 5.0]}, marks=[1.0]), svg.Panel("second", {"b": [1.0, 2.0]})]
    drawn = ET.fromstring(svg.panels("t", "minutes", [1.0, 3.0], panels))
    first, second = (
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        for line in drawn.iter(f"{_SVG}polyline")
    )
    assert [x for x, _ in first] == [x for x, _ in second]
    assert max(y for _, y in first) < min(y for _, y in second) < float(drawn.attrib["height"])
    (mark,) = [each for each in drawn.iter(f"{_SVG}line") if "stroke-dasharray" in each.attrib]
    assert float(mark.attrib["x1"]) == first[0][0]


def test_powers_of_ten_are_as_far_from_each_other() -> None:
    panel = svg.Panel("p99", {"a": [5.0, 50.0, 500.0, 0.0]}, logarithmic=True)
    drawn = ET.fromstring(svg.panels("t", "s", [0.0, 1.0, 2.0, 3.0], [panel]))
    (line,) = drawn.iter(f"{_SVG}polyline")
    five, fifty, more, nothing = (float(pair.split(",")[1]) for pair in line.attrib["points"].split())
    assert five - fifty == pytest.approx(fifty - more, abs=0.2)
    assert nothing > five  # on the axis: it has no logarithm
    assert {"1", "10", "100", "1,000"} <= {text.text for text in drawn.iter(f"{_SVG}text")}
