# SPDX-License-Identifier: GPL-2.0-or-later
"""Plots: whatever the values, a well-formed drawing within its edges, with axes and words that people read."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ddtb6.broker.history import DAY, HOUR, WEEK, Point, Series, TunnelHistory, TunnelPoint, TunnelSeries
from ddtb6.web import plot
from ddtb6.web.pages import fragment
from ddtb6.web.plot import BITS, BOTTOM, COUNT, LEFT, RIGHT, SECONDS, TOP, Curve, Plot, draw, said

END = 1_700_000_000.0 // DAY * DAY + 10.5 * HOUR
POINT = Point(0.0, 1e6, 2e6, 100.0, 200.0, 30.0, 3.0, 12.0)


def series(step: int, count: int, without: range = range(0)) -> Series:
    first = END - END % step - (count - 1) * step
    return Series(step, tuple(replace(POINT, at=first + n * step) for n in range(count) if n not in without))


def svg(each: Plot) -> etree._Element:
    text = fragment("status_pulse.html", pulse=each)
    return etree.fromstring(f"<html>{text}</html>")


def numbers(each: Plot) -> list[tuple[float, float]]:
    """Every point of every path, as far as it is across and up."""
    found = []
    for shape in each.shapes:
        across = up = 0.0
        for kind, rest in re.findall("([MLHV])([^MLHVz]*)", shape.d):
            parts = [float(part) for part in rest.split()]
            across = parts[0] if kind != "V" else across
            up = parts[-1] if kind != "H" else up
            found.append((across, up))
    return found


def test_a_plot_has_axes_that_people_read() -> None:
    each = plot.traffic("traffic-day", "Last day", series(300, 288), END, DAY)
    assert each.unit == "Mbit/s"
    assert [tick.text for tick in each.levels] == ["0", "5", "10", "15", "20"]
    assert [tick.text for tick in each.times] == ["12:00", "18:00", "00:00", "06:00"]
    assert each.keys == (("in", "in"), ("out", "out"))
    assert each.words == (
        "In: 8.0 Mbit/s last, 8.0 Mbit/s on average, 8.0 Mbit/s at most (10:35). "
        "Out: 16.0 Mbit/s last, 16.0 Mbit/s on average, 16.0 Mbit/s at most (10:35)."
    )
    week = plot.traffic("w", "Last week", series(3600, 168), END, WEEK)
    assert len(week.times) == 7
    assert all(re.fullmatch("[A-Z][a-z]{2}", tick.text) for tick in week.times)
    assert [tick.text for tick in plot.traffic("h", "Last hour", series(60, 60), END, HOUR).times] == [
        "09:45",
        "10:00",
        "10:15",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, BITS, "0.0 bit/s"),
        (125.0, BITS, "1.0 kbit/s"),
        (12_500_000.0, BITS, "100 Mbit/s"),
        (1187.0, COUNT, "1187"),
        (0.0123, SECONDS, "12.3 ms"),
        (2.0, SECONDS, "2000 ms"),
    ],
)
def test_values_in_words(value: float, unit: plot.Unit, text: str) -> None:
    assert said(value, unit) == text


def test_what_is_unknown_is_a_gap() -> None:
    whole = plot.sessions("a", "Tunnels", series(60, 60), END, HOUR)
    assert len(whole.shapes) == 2
    broken = plot.sessions("a", "Tunnels", series(60, 60, range(20, 30)), END, HOUR)
    assert len(broken.shapes) == 4
    alone = plot.sessions("a", "Tunnels", series(60, 1), END, HOUR)
    assert len(alone.shapes) == 2, "a point that is alone is as wide as its span"
    nothing = plot.sessions("a", "Tunnels", Series(60, ()), END, HOUR)
    assert (nothing.shapes, nothing.empty, nothing.words) == ((), True, "Nothing is known yet.")
    assert "nothing known yet" in "".join(svg(nothing).itertext())


def test_latency_has_a_band_a_mean_and_what_was_lost() -> None:
    points = [
        TunnelPoint(END - 3000, 1.0, 1.0, 0.010, 0.012, 0.030, 10, 10),
        TunnelPoint(END - 2400, 1.0, 1.0, 0.011, 0.013, 0.020, 10, 5),
        TunnelPoint(END - 1800, 1.0, 1.0, None, None, None, 10, 0),
        TunnelPoint(END - 1200, 1.0, 1.0, None, None, None, 0, 0),
    ]
    each = plot.latency("latency", "Latency", TunnelSeries(600, points), END, HOUR)
    assert [shape.look for shape in each.shapes] == ["lost", "band", "mean"]
    assert each.shapes[0].d.count("M") == 2
    assert each.unit == "ms"
    assert each.words.startswith("Lost: 50.0%. Mean: 13.0 ms last")


def test_a_tunnel_has_four_with_ids_of_their_own() -> None:
    points = [TunnelPoint(END - 600, 1.0, 1.0, 0.01, 0.01, 0.01, 1, 1)]
    some = plot.of_tunnel(TunnelHistory(TunnelSeries(600, points), TunnelSeries(10800, points)), END)
    assert len({each.id for each in some}) == 4


def test_it_is_told_to_who_cannot_see_it_and_has_no_style_of_its_own() -> None:
    each = plot.traffic("traffic-day", "Last <day>", series(300, 288), END, DAY)
    drawing = svg(each).find(".//svg")
    assert drawing is not None
    assert drawing.get("role") == "img"
    ids = {element.get("id"): "".join(element.itertext()) for element in drawing if element.get("id")}
    assert [ids[name] for name in drawing.get("aria-labelledby", "").split()] == ["Last <day>", each.words]
    attributes = {name for element in drawing.iter() for name in element.attrib}
    assert attributes <= {"viewBox", "role", "aria-labelledby", "id", "class", "d", "x", "y"}
    assert len(fragment("status_pulse.html", pulse=each)) < 12_000


values = st.one_of(st.none(), st.floats(0, 1e18), st.just(0.0), st.floats(0, 1e-9))


@given(
    st.lists(st.tuples(st.integers(-3000, 200_000), values), max_size=30),
    st.sampled_from([HOUR, DAY, WEEK, 300, 1]),
    st.sampled_from([BITS, COUNT, SECONDS, plot.AN_HOUR]),
    st.booleans(),
    st.booleans(),
)
def test_any_values(
    points: list[tuple[int, float | None]], span: int, unit: plot.Unit, filled: bool, banded: bool
) -> None:
    known = [(END - at, value) for at, value in sorted(points, key=lambda each: -each[0])]
    curves = (
        Curve("one", "in", known, filled=filled, beneath=[(at, 0.0) for at, _ in known] if banded else None),
        Curve("lost", "lost", [(at, min(1.0, value or 0.0)) for at, value in known], share=True),
    )
    each = draw("any", "Any", curves, begin=END - span, end=END, step=60, unit=unit)
    assert 2 <= len(each.levels) <= 6
    assert len(each.times) <= 8
    assert all(LEFT - 0.1 <= across <= RIGHT + 0.1 for across, _ in numbers(each))
    assert all(TOP - 0.1 <= up <= BOTTOM + 0.1 for _, up in numbers(each))
    assert svg(each).find(".//desc") is not None
