# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tool shows things: tables, times, amounts, JSON. Times are shown in UTC, with a Z."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from ddtb6.web.amounts import octets, span, when

__all__ = ["add_json", "octets", "print_facts", "print_json", "print_table", "safe", "span", "table", "when"]

WIDTH = 100
"""Columns a table takes at most on a terminal; into a pipe nothing is cut."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give a command the option --json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None) -> None:
    """Print a table; cells are cut to fit `width` columns: by default `WIDTH` on a terminal, else not at all."""
    if width is None and sys.stdout.isatty():
        width = WIDTH
    for line in table(headings, rows, width):
        print(line)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], width: int | None) -> list[str]:
    """The lines of a table. Numbers stand to the right. The widest columns give way first."""
    cells = [["" if cell is None else safe(str(cell)) for cell in row] for row in rows]
    sizes = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    while width is not None and sum(sizes) + 2 * (len(sizes) - 1) > width and max(sizes) > 8:
        sizes[sizes.index(max(sizes))] -= 1
    right = [bool(rows) and all(isinstance(row[column], int | None) for row in rows) for column in range(len(sizes))]
    lines = []
    for row in [list(headings), *cells]:
        placed = []
        for cell, size, number in zip(row, sizes, right, strict=True):
            short = cell if len(cell) <= size else cell[: size - 1] + "…"
            placed.append(short.rjust(size) if number else short.ljust(size))
        lines.append("  ".join(placed).rstrip())
    return lines


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values in two columns, wrapped on a terminal; facts without a value are left out."""
    known = [(name, safe(str(value))) for name, value in facts if value not in (None, "")]
    size = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        lines = (textwrap.wrap(value, WIDTH - size - 2) if sys.stdout.isatty() else []) or [value]
        print(f"\n{'':<{size}}  ".join([f"{name:<{size}}  {lines[0]}", *lines[1:]]))


def safe(text: str) -> str:
    """`text` with everything escaped that could steer a terminal; names and versions come from strangers."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
