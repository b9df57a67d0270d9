# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about the past for plots: one row for each span of time of the broker, one ring for each owner.

Invariant: bounded, because old rows go when new ones come, and a ring has one size.
Not here: what the columns mean (`broker.history`), what a ring holds (`broker.ring`), transactions (`writer`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import astuple

from ddtb6.broker import ring
from ddtb6.broker.history import Cell, Recorded, Span

_COLUMNS = "at, known, octets_in, octets_out, packets_in, packets_out, logins, refusals, sessions"
"""As `Span` has them."""


def recorded(connection: sqlite3.Connection) -> Recorded:
    """All spans of the broker."""
    spans: dict[int, list[Span]] = {}
    for step, *columns in connection.execute(f"SELECT step, {_COLUMNS} FROM past ORDER BY step, at"):
        spans.setdefault(step, []).append(Span(*columns))
    until = connection.execute("SELECT max(until) FROM past").fetchone()[0]
    return Recorded(spans, until)


def write(
    connection: sqlite3.Connection, spans: Mapping[int, Sequence[Span]], until: float, before: Mapping[int, int]
) -> None:
    """Put spans in the place of those of the same length and begin; forget what began `before`, by length."""
    rows = [(step, until, *astuple(each)) for step, some in spans.items() for each in some]
    statement = f"INSERT OR REPLACE INTO past (step, until, {_COLUMNS}) VALUES ({', '.join('?' * 11)})"
    connection.executemany(statement, rows)
    connection.executemany("DELETE FROM past WHERE step = ? AND at < ?", before.items())


def ring_of(connection: sqlite3.Connection, owner: str) -> bytes | None:
    """The ring of an owner, if there is one."""
    row = connection.execute("SELECT ring FROM tunnel_past WHERE owner = ?", (owner,)).fetchone()
    return None if row is None else row[0]


def add_cells(connection: sqlite3.Connection, cells: Mapping[str, Sequence[Cell]], now: float) -> None:
    """Add what owners' tunnels did to their rings."""
    statement = """
        INSERT INTO tunnel_past (owner, written, ring) VALUES (?, ?, ?)
        ON CONFLICT (owner) DO UPDATE SET written = excluded.written, ring = excluded.ring
    """
    rings = [(owner, now, ring.write(ring_of(connection, owner), some)) for owner, some in cells.items()]
    connection.executemany(statement, rings)


def delete_ring(connection: sqlite3.Connection, owner: str) -> None:
    """Forget an owner's ring, if there is one."""
    connection.execute("DELETE FROM tunnel_past WHERE owner = ?", (owner,))


def trim_rings(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Forget up to `most` rings last written to before epoch second `before`; returns how many."""
    statement = "DELETE FROM tunnel_past WHERE owner IN (SELECT owner FROM tunnel_past WHERE written < ? LIMIT ?)"
    return connection.execute(statement, (before, most)).rowcount
