# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about leases: who has what, and who had.

The table `lease` has a row for each piece ever handed out, with its holder or its last one; `lease_history` has
earlier holdings. A row is forgotten when nobody is to be told of its last holder any more, or ever.
Not here: which piece an owner gets (`allocator`), transactions (`writer`).
"""

from __future__ import annotations

import sqlite3
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from ddtb6.broker.ports import Lease

COLUMNS = "start, length, pool, owner, granted, released"
"""What a `Row` is made of; the same in both tables."""
_LENGTHS = (128, *range(64, -1, -1))
_MASKS = tuple(((1 << length) - 1) << (128 - length) for length in _LENGTHS)
_STARTS = f"start IN ({', '.join(f'?{number}' for number in range(1, len(_LENGTHS) + 1))})"

RELEASE = "UPDATE lease SET released = ? WHERE start = ?"
_HELD_BY = f"SELECT {COLUMNS} FROM lease WHERE owner = ? AND released IS NULL ORDER BY granted, start"
# Forgotten, unless there is a session that somebody may ask about.
_RELEASE_ANONYMOUS = """
    UPDATE lease SET released = :now, forgotten = NOT EXISTS (
        SELECT 1 FROM session WHERE session.owner = lease.owner AND session.started >= lease.granted
    ) WHERE owner = :owner AND released IS NULL
"""
_RELEASED = f"SELECT {COLUMNS} FROM lease WHERE released IS NOT NULL AND forgotten = 0"
_RELEASED_LAST = (
    f"{_RELEASED} AND owner <> '' ORDER BY released DESC LIMIT ?",
    f"SELECT {COLUMNS} FROM lease_history ORDER BY released DESC LIMIT ?",
)
_RELEASED_LAST_BY = (
    f"{_RELEASED} AND owner = ? ORDER BY released DESC LIMIT ?",
    f"SELECT {COLUMNS} FROM lease_history WHERE owner = ? ORDER BY released DESC LIMIT ?",
)
_SPANS = f"""
    SELECT {COLUMNS} FROM lease WHERE {_STARTS} AND forgotten = 0
    UNION ALL SELECT {COLUMNS} FROM lease_history WHERE {_STARTS}
"""
_PAGE_OF_HELD = f"SELECT {COLUMNS} FROM lease WHERE start > ? AND released IS NULL ORDER BY start LIMIT ?"
_PRUNE = "DELETE FROM lease_history WHERE id IN (SELECT id FROM lease_history WHERE released < ? LIMIT ?)"
_FORGET_OWNERS = """
    UPDATE lease SET owner = '', forgotten = 1
    WHERE start IN (SELECT start FROM lease WHERE released < ? AND owner <> '' LIMIT ?)
"""


class Row(NamedTuple):
    """A row of lease or lease_history."""

    start: bytes
    length: int
    pool: str
    owner: str
    granted: float
    released: float | None
    route: int = 0

    @property
    def first(self) -> int:
        """The first address."""
        return int.from_bytes(self.start, "big")

    @property
    def last(self) -> int:
        """The last address."""
        return self.first + (1 << (128 - self.length)) - 1

    def lease(self) -> Lease:
        return Lease(self.pool, IPv6Network((self.first, self.length)), self.owner, self.granted, self.released)


SHORTEST_GROWTH = 3600.0
"""Seconds after which a rate says something."""


def release(connection: sqlite3.Connection, owner: str, now: float) -> list[Lease]:
    """End all that the owner holds."""
    held = [Row(*row) for row in connection.execute(_HELD_BY, (owner,))]
    connection.executemany(RELEASE, [(now, row.start) for row in held])
    return [row._replace(released=now).lease() for row in held]


def release_anonymous(connection: sqlite3.Connection, owner: str, now: float) -> None:
    """End what the owner holds; no history is kept of what no packet came from."""
    connection.execute(_RELEASE_ANONYMOUS, {"now": now, "owner": owner})


def held_by(connection: sqlite3.Connection, owner: str) -> list[Lease]:
    """What the owner holds."""
    return [Row(*row).lease() for row in connection.execute(_HELD_BY, (owner,))]


def released_last(connection: sqlite3.Connection, owner: str | None, limit: int) -> list[Lease]:
    """The last `limit` leases that were released, by that owner or by anybody."""
    if owner is None:
        found = [Row(*row) for each in _RELEASED_LAST for row in connection.execute(each, (limit,))]
    else:
        found = [Row(*row) for each in _RELEASED_LAST_BY for row in connection.execute(each, (owner, limit))]
    found.sort(key=lambda row: row.released or 0.0, reverse=True)
    return [row.lease() for row in found[:limit]]


def page_of_held(connection: sqlite3.Connection, after: bytes, most: int) -> list[Lease]:
    """What anybody holds, in the order of addresses: up to `most` leases that begin behind `after` (16 octets)."""
    return [Row(*row).lease() for row in connection.execute(_PAGE_OF_HELD, (after, most))]


def holder(connection: sqlite3.Connection, address: IPv6Address, at: float) -> Lease | None:
    """The lease that covered `address` in the second that begins at `at`; the later one if there were two."""
    starts = tuple((int(address) & mask).to_bytes(16, "big") for mask in _MASKS)
    of_length = dict(zip(_LENGTHS, starts, strict=True))
    found: Row | None = None
    for values in connection.execute(_SPANS, starts):
        row = Row(*values)
        in_time = row.granted < at + 1 and (row.released is None or row.released > at)
        if in_time and of_length.get(row.length) == row.start and (found is None or row.granted >= found.granted):
            found = row
    return None if found is None else found.lease()


def prune(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Forget up to `most` earlier holdings that ended before `before`; returns how many went."""
    return connection.execute(_PRUNE, (before, most)).rowcount


def forget_owners(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Forget who last held up to `most` pieces that were released before `before`; returns how many there were."""
    return connection.execute(_FORGET_OWNERS, (before, most)).rowcount


def growth(connection: sqlite3.Connection, now: float, window: float) -> dict[str, float]:
    """Pool name to pieces a day by which what is held has grown in the last `window` seconds, or since its first grant.

    Looks at every piece that is held: some 20 ms with 50,000 of them.
    """
    since = now - window
    gone: dict[str, int] = {}
    for table in ("lease", "lease_history"):
        statement = f"SELECT pool, count(*) FROM {table} WHERE released >= ? AND granted < ? GROUP BY pool"
        for pool, count in connection.execute(statement, (since, since)):
            gone[pool] = gone.get(pool, 0) + count
    statement = "SELECT pool, sum(granted >= ?), min(granted) FROM lease WHERE released IS NULL GROUP BY pool"
    grown = {}
    for pool, new, first in connection.execute(statement, (since,)):
        observed = window if pool in gone else min(window, now - first)
        if observed >= SHORTEST_GROWTH:
            grown[pool] = (new - gone.get(pool, 0)) * 86400 / observed
    return grown
