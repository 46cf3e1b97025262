from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.train.report.plots import Axis, Frame, Series, bars, heatmap, line_plot, percent, scatter

SVG = "{http://www.w3.org/2000/svg}"
UNIT = Axis("share", 0, 1, percent)


def tree(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in tree(svg).iter(f"{SVG}text")]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_within_the_axis_and_evenly_apart(low: float, span: float) -> None:
    axis = Axis("", low, low + span)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


def test_a_frame_puts_the_lowest_left_and_below() -> None:
    frame = Frame(UNIT, Axis("", 10, 20), left=50, top=10, width=100, height=200)
    assert (frame.at_x(0), frame.at_x(1), frame.at_x(0.25)) == (50, 150, 75)
    assert (frame.at_y(10), frame.at_y(20)) == (210, 10)


def test_a_line_goes_through_its_points_with_its_name_its_ticks_and_its_marks() -> None:
    svg = line_plot(
        [Series("right", [0, 0.5, 1], [0, 1, 0.5], low=[0, 0.5], high=[1, 1])],
        title="A & B",
        x=UNIT,
        y=Axis("y", 0, 1),
        marks=[(0.5, "here")],
        width=180,
        height=400,
    )
    (line,) = tree(svg).iter(f"{SVG}polyline")
    xs, ys = zip(*(map(float, p.split(",")) for p in line.attrib["points"].split()), strict=True)
    assert xs == (56, 106, 156)
    assert ys[0] > ys[2] > ys[1]
    assert {"A & B", "share", "y", "right", "here", "0%", "100%"} <= set(texts(svg))
    assert tree(svg).attrib["aria-label"] == "A & B"


def test_marks_that_are_close_share_one_name_and_keep_their_lines() -> None:
    marks = [(0.9, "90%"), (0.91, "91%"), (0.2, "in force")]
    svg = line_plot([], title="t", x=UNIT, y=UNIT, marks=marks)
    assert {"90%", "in force"} <= set(texts(svg))
    assert "91%" not in texts(svg)
    assert svg.count("stroke-dasharray='2 3'") == 3


def test_bars_are_as_long_as_their_values_and_say_them() -> None:
    svg = bars(["a", "<b>"], [1.0, 0.5], title="t", x=UNIT, intervals=[(0.9, 1.0), None])
    long, short = (float(r.attrib["width"]) for r in tree(svg).iter(f"{SVG}rect"))
    assert long == pytest.approx(2 * short, abs=0.2)
    assert {"<b>", "100%", "50%"} <= set(texts(svg))


def test_a_heatmap_draws_each_pair_that_happened_deeper_by_its_share_of_the_row() -> None:
    svg = heatmap([[3, 1], [0, 2]], ["a", "b"], title="t", row_label="is", column_label="taken for", totals=[4, 2])
    filled = [r for r in tree(svg).iter(f"{SVG}rect") if r.attrib["fill"] != "none"]
    depths = [float(r.attrib["fill-opacity"]) for r in filled]
    assert len(filled) == 3
    assert depths[1] < depths[0] < depths[2] == 1.0
    told = [t.text for t in tree(svg).iter(f"{SVG}title")]
    assert "a, taken for b: 1 of 4" in told
    assert "b, right: 2 of 2" in told


def test_points_lie_where_their_numbers_say_and_the_diagonal_where_both_are_equal() -> None:
    axis = Axis("n", 0, 10)
    svg = scatter([(0, 0), (10, 10)], title="t", x=axis, y=axis, diagonal=True)
    a, b = (tuple(float(c.attrib[k]) for k in ("cx", "cy")) for c in tree(svg).iter(f"{SVG}circle"))
    (line,) = tree(svg).iter(f"{SVG}polyline")
    assert [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] == [a, b]


def test_an_axis_without_length_and_a_plot_without_points_are_drawn_all_the_same() -> None:
    assert Axis("", 3, 3).ticks() == [3]
    flat = Axis("", 3, 3)
    for svg in (
        line_plot([], title="t", x=flat, y=flat),
        scatter([], title="t", x=flat, y=flat),
        bars([], [], title="t", x=flat),
    ):
        assert tree(svg).tag == f"{SVG}svg"


def test_a_long_name_is_shortened_and_told_in_full() -> None:
    name = "balance not updated after a bank transfer"
    svg = heatmap([[1]], [name], title="t", row_label="", column_label="")
    assert name not in texts(svg)
    assert name in [t.text for t in tree(svg).iter(f"{SVG}title")]
