# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about the journal of accounting.

A record is a copy of the session's row as it is at that moment, made by SQLite itself.
Invariants: numbers rise for ever, whatever was acknowledged; records of sessions are written in the transaction that
writes what they tell; there are none of anonymous sessions, which nobody is billed for and a stranger can fake.
Not here: transactions (`writer`), delivery (`radius.accounting`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from ddtb6.broker.journal import Record, RecordKind
from ddtb6.store import sessions
from ddtb6.tunnel.spec import TunnelId

_OCTETS = frozenset({"address", "prefix"})
_LEFT_OUT = {"id", "counted_before", *sessions.COUNTERS.split(", ")}
_COPIED = [name for name in sessions.COLUMNS.split(", ") if name not in _LEFT_OUT]
_COPY = ", ".join(f"'{name}', {f'hex({name})' if name in _OCTETS else name}" for name in _COPIED)
_RECORD = f"""
    INSERT INTO journal (kind, at, session_id, session, {sessions.COUNTERS}, reason)
    SELECT ?, ?, id, json_object({_COPY}), {sessions.COUNTERS}, reason FROM session
    WHERE id = ? AND user IS NOT NULL
"""
_RECORD_LIVE = f"{_RECORD} AND ended IS NULL"
_APPEND = "INSERT INTO journal (kind, at) VALUES (?, ?)"
_WAITING = f"""
    SELECT number, kind, at, session_id, session, reason, {sessions.COUNTERS}
    FROM journal WHERE number > ? ORDER BY number LIMIT ?
"""
_ACKNOWLEDGE = "DELETE FROM journal WHERE number = ?"
_BACKLOG = "SELECT count(*) FROM journal"
_SPAN = "SELECT coalesce(max(number) - min(number), 0) FROM journal"
_SUPERSEDE = f"DELETE FROM journal WHERE session_id = ? AND kind = {RecordKind.INTERIM.value}"

MANY = 250_000
"""Numbers between the oldest and the newest record from which on an interim takes the place of the session's others.

They are about 150 MB. The later one says all that the earlier ones did, and nothing that must not be lost.
"""


def record(connection: sqlite3.Connection, kind: RecordKind, tunnel: TunnelId, now: float) -> None:
    """Write what there is to tell about a session that has just begun or ended."""
    connection.execute(_RECORD, (kind.value, now, tunnel))


def record_interim(connection: sqlite3.Connection, tunnels: Iterable[TunnelId], now: float) -> None:
    """Write what live sessions have carried by now; those that have ended are passed over."""
    tunnels = list(tunnels)
    if connection.execute(_SPAN).fetchone()[0] >= MANY:
        connection.executemany(_SUPERSEDE, [(tunnel,) for tunnel in tunnels])
    connection.executemany(_RECORD_LIVE, [(RecordKind.INTERIM.value, now, tunnel) for tunnel in tunnels])


def append(connection: sqlite3.Connection, kind: RecordKind, now: float) -> None:
    """Write a record that is about no session."""
    connection.execute(_APPEND, (kind.value, now))


def waiting(connection: sqlite3.Connection, after: int, limit: int) -> list[Record]:
    """The oldest `limit` records with a number above `after`."""
    return [_read(row) for row in connection.execute(_WAITING, (after, limit))]


def acknowledge(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Forget records."""
    connection.executemany(_ACKNOWLEDGE, [(number,) for number in numbers])


def backlog(connection: sqlite3.Connection) -> int:
    """How many there are."""
    count: int = connection.execute(_BACKLOG).fetchone()[0]
    return count


def _read(row: tuple[Any, ...]) -> Record:
    number, kind, at, tunnel, text, reason = row[:6]
    counters = sessions.counters(row[6:])
    session = None
    if text is not None:
        copied = json.loads(text)
        for name in _OCTETS:
            copied[name] = bytes.fromhex(copied[name]) or None
        session = sessions.session((tunnel, *(copied[name] for name in _COPIED), *row[6:], None))
    return Record(number, RecordKind(kind), at, session, counters, sessions.reason_of(reason))
