# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring of a tunnel: one size, old points go, what is told in parts adds up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.broker import ring
from ddtb6.broker.history import COARSE, DAY, FINE, WEEK, Cell

START = 2_900_000
"""The number of a `FINE` span at which a `COARSE` one begins, too."""


def test_a_ring_and_its_row_fit_on_a_page() -> None:
    assert ring.SIZE <= 4061 - 300, "an owner's name takes up to 300 octets of a page of 4096"


def test_points_are_rates_and_echoes() -> None:
    cells = [
        Cell(START, 600.0, 6000.0, 0.010, 0.050, 0.030, 3, 3),
        Cell(START, 600.0, 0.0, 0.005, 0.005, 0.005, 2, 1),
        Cell(START + 1, 1200.0, 0.0),
    ]
    now = (START + 2) * FINE
    history = ring.read(ring.write(None, cells), now)
    first, second = history.day.points
    assert history.day.step == FINE
    assert (first.at, first.octets_in, first.octets_out, first.sent, first.answered) == (START * FINE, 2.0, 10.0, 5, 4)
    assert first.least == pytest.approx(0.005, rel=1e-3)
    assert first.mean == pytest.approx(0.055 / 4, rel=1e-3)
    assert first.most == pytest.approx(0.030, rel=1e-3)
    assert (second.octets_in, second.least, second.mean, second.most) == (2.0, None, None, None)
    [coarse] = history.week.points
    assert (coarse.at % COARSE, coarse.sent, coarse.answered) == (0, 5, 4)
    assert coarse.octets_in == pytest.approx(2400 / (now - coarse.at), rel=1e-3)


def test_the_span_that_is_not_over_is_a_rate_too() -> None:
    [point] = ring.read(ring.write(None, [Cell(START, 1000.0, 0.0)]), START * FINE + 100.0).day.points
    assert point.octets_in == pytest.approx(10.0)


def test_what_is_old_goes() -> None:
    octets = ring.write(None, [Cell(START, 1.0, 1.0)])
    assert len(ring.read(octets, START * FINE + DAY - 1).day.points) == 1
    assert ring.read(octets, START * FINE + DAY).day.points == ()
    assert ring.read(octets, START * FINE + WEEK + COARSE).week.points == ()
    again = ring.write(octets, [Cell(START + DAY // FINE, 600.0, 0.0)])
    assert [each.octets_in for each in ring.read(again, START * FINE + DAY + FINE).day.points] == [1.0]


def test_what_is_no_ring_is_an_empty_one() -> None:
    assert ring.read(b"something else", 1e9).day.points == ()
    assert len(ring.write(b"something else", [])) == ring.SIZE


numbers = st.floats(0, 1e15) | st.sampled_from([0.0, 1e30])


@given(
    st.lists(
        st.builds(
            Cell,
            st.integers(0, START),
            numbers,
            numbers,
            numbers,
            numbers,
            numbers,
            st.integers(0, 999),
            st.integers(0, 999),
        ),
        max_size=9,
    ),
    st.floats(0, 4e9),
)
def test_any_cells(cells: list[Cell], now: float) -> None:
    octets = ring.write(None, cells)
    assert len(octets) == ring.SIZE
    history = ring.read(octets, now)
    for series in (history.day, history.week):
        ats = [each.at for each in series.points]
        assert ats == sorted(set(ats))
        assert all(each.answered <= each.sent <= 255 for each in series.points)
