# SPDX-License-Identifier: GPL-2.0-or-later
"""How the tool shows things: tables, times, amounts, JSON. Times are shown in UTC, with a Z."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

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


def when(epoch: float | None) -> str:
    """Epoch seconds as ``2026-01-31 23:59:59Z``."""
    if epoch is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):
        return f"@{epoch:.0f}"


def span(seconds: float | None) -> str:
    """Seconds as ``42 s``, ``3 min``, ``5 h 10 min`` or ``2 d 3 h``: the two largest units from the hour on."""
    if seconds is None:
        return ""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    large, small = (whole // 3600, whole % 3600 // 60) if whole < 86400 else (whole // 86400, whole % 86400 // 3600)
    units = ("h", "min") if whole < 86400 else ("d", "h")
    return f"{large} {units[0]} {small} {units[1]}" if small else f"{large} {units[0]}"


def octets(count: int) -> str:
    """A number of octets as ``999 B``, ``1.5 kB`` and so on, by thousands."""
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.1f} {unit}"
