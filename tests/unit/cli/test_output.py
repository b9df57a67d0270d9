# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tool shows tables, times and amounts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddtb6.cli import output


def test_table() -> None:
    assert output.table(("NAME", "COUNT"), [("a", 5), ("longer", 1234), (None, None)], None) == [
        "NAME    COUNT",
        "a           5",
        "longer   1234",
        "",
    ]


@given(st.lists(st.lists(st.text(max_size=80), min_size=6, max_size=6), max_size=4))
def test_tables_fit(rows: list[list[str]]) -> None:
    for line in output.table(["ID", "USER", "FROM", "HOLDS", "UP FOR", "OUT"], rows, 100):
        assert len(line) <= 100
        assert line.isprintable()


def test_what_was_cut_shows() -> None:
    head, row = output.table(("A", "B"), [("x" * 30, "short")], 20)
    assert row == "x" * 12 + "…  short"
    assert len(head) <= 20


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86400, "1 d"),
        (7 * 86400 + 7200, "7 d 2 h"),
    ],
)
def test_spans(seconds: float | None, text: str) -> None:
    assert output.span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_499, "99.5 kB"), (99_999, "100 kB"), (10**12, "1.0 TB")],
)
def test_octets(count: int, text: str) -> None:
    assert output.octets(count) == text


@given(st.integers(0, 10**21))
def test_octets_stay_short(count: int) -> None:
    assert len(output.octets(count)) <= 10


def test_times() -> None:
    assert output.when(None) == ""
    assert output.when(1_700_000_000.9) == "2023-11-14 22:13:20Z"
    assert output.when(1e30).startswith("@")


def test_safe() -> None:
    assert output.safe("älice \x1b[31m\n\x9b\u202e") == "älice \\x1b[31m\\n\\x9b\\u202e"


def test_facts(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_facts([("User", "alice"), ("Address", None), ("Prefix", "x"), ("Empty", ""), ("Zero", 0)])
    assert capsys.readouterr().out == "User    alice\nPrefix  x\nZero    0\n"
