# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about leases: which piece of a pool an owner gets, who had what.

An owner gets, in this order: what they hold; what they released and nobody got since, even in quarantine; the piece
that has rested longest, its quarantine over; the lowest piece never handed out.

Invariants: pieces handed out never overlap (also after pools were renamed, moved or carved anew); `choose` only reads,
`grant` and `release` only write. Statement texts are constant, so that sqlite3 keeps them prepared.
Not here: transactions (`writer`), the arithmetic of pools (`addressing.pool`), which pool a request may use (`broker`).
"""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import Any, NamedTuple

from ddtb6.addressing.pool import DELEGATED_LENGTHS, Pool
from ddtb6.broker.ports import HoldsOther, Lease, PoolExhausted

_COLUMNS = "start, length, pool, owner, granted, released"
_LENGTHS = (128, *DELEGATED_LENGTHS)
_MASKS = tuple(((1 << length) - 1) << (128 - length) for length in _LENGTHS)
_STARTS = f"start IN ({', '.join('?' * len(_LENGTHS))})"

_OF_OWNER = f"SELECT {_COLUMNS} FROM lease WHERE owner = ?"
_HELD_BY = f"SELECT {_COLUMNS} FROM lease WHERE owner = ? AND released IS NULL ORDER BY granted, start"
_RESTED = "SELECT start FROM lease WHERE pool = ? AND released <= ? ORDER BY released LIMIT 1"
# In the order of addresses from the last piece that begins at or before the first one asked about.
_TAKEN = """
    SELECT start, length FROM lease
    WHERE start >= coalesce((SELECT max(start) FROM lease WHERE start <= :first), :first) AND start <= :last
    ORDER BY start
"""
_GRANT_NEW = "INSERT INTO lease (start, length, pool, owner, granted) VALUES (?, ?, ?, ?, ?)"
_REMEMBER = f"""
    INSERT INTO lease_history ({_COLUMNS}) SELECT {_COLUMNS} FROM lease WHERE start = ? AND forgotten = 0
"""
_GRANT_AGAIN = "UPDATE lease SET owner = ?, granted = ?, released = NULL, forgotten = 0 WHERE start = ?"
_RELEASE = "UPDATE lease SET released = ? WHERE start = ?"
# Forgotten, unless there is a session that somebody may ask about.
_RELEASE_ANONYMOUS = """
    UPDATE lease SET released = :now, forgotten = NOT EXISTS (
        SELECT 1 FROM session WHERE session.owner = lease.owner AND session.started >= lease.granted
    ) WHERE owner = :owner AND released IS NULL
"""
_RELEASED_BY = f"""
    SELECT {_COLUMNS} FROM lease WHERE owner = :owner AND released IS NOT NULL
    UNION ALL SELECT {_COLUMNS} FROM lease_history WHERE owner = :owner
"""
_SPANS = f"""
    SELECT {_COLUMNS} FROM lease WHERE {_STARTS} UNION ALL SELECT {_COLUMNS} FROM lease_history WHERE {_STARTS}
"""
_HELD = "SELECT count(*) FROM lease WHERE pool = ? AND released IS NULL"
_RESTING = "SELECT count(*) FROM lease WHERE pool = ? AND released > ?"
_PRUNE = "DELETE FROM lease_history WHERE id IN (SELECT id FROM lease_history WHERE released < ? LIMIT ?)"

_PAGE_OF_HELD = f"SELECT start, {_COLUMNS} FROM lease WHERE start > ? AND released IS NULL ORDER BY start LIMIT ?"
_PAGE_OF_RELEASED = (
    f"SELECT start, {_COLUMNS} FROM lease WHERE start > ? AND released IS NOT NULL ORDER BY start LIMIT ?"
)
_PAGE_OF_EARLIER = f"SELECT id, {_COLUMNS} FROM lease_history WHERE id > ? ORDER BY id LIMIT ?"

# When the pools of the configuration are not those that the pieces were handed out of.
_LEAVE_POOL = "UPDATE lease SET pool = '' WHERE pool = ? AND NOT (start BETWEEN ? AND ? AND length = ?)"
_JOIN_POOL = "UPDATE lease SET pool = ? WHERE start BETWEEN ? AND ? AND length = ? AND pool <> ?"
_REMEMBER_STRAYS = f"""
    INSERT INTO lease_history ({_COLUMNS}) SELECT {_COLUMNS} FROM lease WHERE pool = '' AND released <= ?
"""
_FORGET_STRAYS = "DELETE FROM lease WHERE pool = '' AND released <= ?"


class _Way(enum.Enum):
    HELD = enum.auto()
    AGAIN = enum.auto()
    NEW = enum.auto()


class Choice(NamedTuple):
    """A piece for an owner, and what it takes to make it theirs."""

    pool: str
    start: int
    """The first address of the piece."""
    length: int
    way: _Way
    given_up: bytes | None
    """A piece that the owner still holds, of a pool that is no longer configured for this."""


class Row(NamedTuple):
    """A row of lease or lease_history, as `_COLUMNS` has it."""

    start: bytes
    length: int
    pool: str
    owner: str
    granted: float
    released: float | None

    def lease(self) -> Lease:
        prefix = IPv6Network((int.from_bytes(self.start, "big"), self.length))
        return Lease(self.pool, prefix, self.owner, self.granted, self.released)


class Leases:
    """The leases of a set of pools."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = dict(pools)
        self._carvings = {
            name: (int(pool.block.network_address), 128 - pool.length, pool.first + pool.capacity, _bounds(pool)[1])
            for name, pool in pools.items()
        }
        """By pool: the block's first address, the bits below a piece, the index after its last, that one's address."""
        self._unused: dict[str, int] = {}
        """By pool an index below which every piece has been handed out: where to look for one that has not."""
        self.forget()

    def forget(self) -> None:
        """Drop what is remembered of the database; needed after a rollback."""
        self._unused = {name: pool.first for name, pool in self._pools.items()}

    def fit(self, connection: sqlite3.Connection, now: float) -> None:
        """Make `lease.pool` agree with the configured pools; to be done before anything else.

        Pieces follow their addresses, not the name of the pool. What fits no pool any more stays with its owner
        until they come back or it is released, and no longer blocks its addresses once it has rested.
        """
        bounds = [(name, *_bounds(pool), pool.length) for name, pool in self._pools.items()]
        connection.executemany(_LEAVE_POOL, bounds)
        connection.executemany(_JOIN_POOL, [(*each, each[0]) for each in bounds])
        rested = now - max((pool.quarantine for pool in self._pools.values()), default=0.0)
        connection.execute(_REMEMBER_STRAYS, (rested,))
        connection.execute(_FORGET_STRAYS, (rested,))

    def of_owner(self, connection: sqlite3.Connection, owner: str) -> list[Row]:
        """What the owner holds, and what they were the last to hold."""
        return [Row(*row) for row in connection.execute(_OF_OWNER, (owner,))]

    def choose(self, connection: sqlite3.Connection, known: Sequence[Row], pool: Pool, now: float) -> Choice:
        """The piece of `pool` for the owner of the rows `known`. Raises PoolExhausted, HoldsOther."""
        given_up = None
        released = None
        for row in known:
            if (row.length == 128) != (pool.length == 128):
                continue
            source = self._pools.get(row.pool)
            suits = source is not None and source.use is pool.use
            if row.released is not None:
                if (
                    suits
                    and row.length == pool.length
                    and (released is None or row.released > (released.released or 0))
                ):
                    released = row
            elif not suits:
                given_up = row.start
            elif row.length != pool.length:
                raise HoldsOther(row.lease())
            else:
                return Choice(row.pool, int.from_bytes(row.start, "big"), row.length, _Way.HELD, None)
        if released is not None:
            start = int.from_bytes(released.start, "big")
            return Choice(released.pool, start, released.length, _Way.AGAIN, given_up)
        rested = connection.execute(_RESTED, (pool.name, now - pool.quarantine)).fetchone()
        if rested is not None:
            return Choice(pool.name, int.from_bytes(rested[0], "big"), pool.length, _Way.AGAIN, given_up)
        return Choice(pool.name, self._never_used(connection, pool), pool.length, _Way.NEW, given_up)

    def _never_used(self, connection: sqlite3.Connection, pool: Pool) -> int:
        """The first address of the lowest piece never handed out. Raises PoolExhausted."""
        base, shift, beyond, last = self._carvings[pool.name]
        index = self._unused[pool.name]
        if index >= beyond:
            raise PoolExhausted(pool.name)
        first = (base + (index << shift)).to_bytes(16, "big")
        for taken, length in connection.execute(_TAKEN, {"first": first, "last": last}):
            # Pieces of an earlier carving may be larger or smaller than those of this pool.
            begin = int.from_bytes(taken, "big") - base
            end = begin + (1 << (128 - length))
            if begin >> shift > index:
                break
            index = max(index, (end - 1 >> shift) + 1)
        self._unused[pool.name] = index
        if index >= beyond:
            raise PoolExhausted(pool.name)
        return base + (index << shift)

    def grant(self, connection: sqlite3.Connection, choice: Choice, owner: str, now: float) -> None:
        """Make `choice` the owner's."""
        if choice.given_up is not None:
            connection.execute(_RELEASE, (now, choice.given_up))
        start = choice.start.to_bytes(16, "big")
        if choice.way is _Way.NEW:
            connection.execute(_GRANT_NEW, (start, choice.length, choice.pool, owner, now))
        elif choice.way is _Way.AGAIN:
            connection.execute(_REMEMBER, (start,))
            connection.execute(_GRANT_AGAIN, (owner, now, start))

    def usage(self, connection: sqlite3.Connection, now: float) -> dict[str, tuple[int, int]]:
        """By pool: pieces held, and pieces released and not yet to be had by others."""
        return {
            name: (
                connection.execute(_HELD, (name,)).fetchone()[0],
                connection.execute(_RESTING, (name, now - pool.quarantine)).fetchone()[0],
            )
            for name, pool in self._pools.items()
        }


def release(connection: sqlite3.Connection, owner: str, now: float) -> list[Lease]:
    """End all that the owner holds."""
    held = [Row(*row) for row in connection.execute(_HELD_BY, (owner,))]
    connection.executemany(_RELEASE, [(now, row.start) for row in held])
    return [row._replace(released=now).lease() for row in held]


def release_anonymous(connection: sqlite3.Connection, owner: str, now: float) -> None:
    """End what the owner holds; no history is kept of what no packet came from."""
    connection.execute(_RELEASE_ANONYMOUS, {"now": now, "owner": owner})


def listing(connection: sqlite3.Connection, owner: str, held: bool) -> list[Lease]:
    """What the owner holds, or what they released."""
    rows = connection.execute(_HELD_BY, (owner,)) if held else connection.execute(_RELEASED_BY, {"owner": owner})
    return [Row(*row).lease() for row in rows]


class Page(NamedTuple):
    """Where a list of all leases goes on: a statement, and the key of the last row that was read."""

    statement: str
    after: Any


FIRST_PAGES = {
    True: (Page(_PAGE_OF_HELD, b""),),
    False: (Page(_PAGE_OF_RELEASED, b""), Page(_PAGE_OF_EARLIER, 0)),
}
"""Where the lists of all that is held (True), or was released, begin."""


def read_page(connection: sqlite3.Connection, page: Page, most: int) -> tuple[list[Lease], Page | None]:
    """Up to `most` leases, and the page after them if there is one."""
    rows = connection.execute(page.statement, (page.after, most)).fetchall()
    following = Page(page.statement, rows[-1][0]) if len(rows) == most else None
    return [Row(*row[1:]).lease() for row in rows], following


def holder(connection: sqlite3.Connection, address: IPv6Address, at: float) -> Lease | None:
    """The lease that covered `address` in the second that begins at `at`; the later one if there were two."""
    starts = tuple((int(address) & mask).to_bytes(16, "big") for mask in _MASKS)
    of_length = dict(zip(_LENGTHS, starts, strict=True))
    found: Row | None = None
    for values in connection.execute(_SPANS, (*starts, *starts)):
        row = Row(*values)
        in_time = row.granted < at + 1 and (row.released is None or row.released > at)
        if in_time and of_length.get(row.length) == row.start and (found is None or row.granted >= found.granted):
            found = row
    return None if found is None else found.lease()


def prune(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Forget up to `most` earlier holdings that ended before `before`; returns how many went."""
    return connection.execute(_PRUNE, (before, most)).rowcount


def _bounds(pool: Pool) -> tuple[Any, Any]:
    """The first addresses of the first and the last piece that the pool hands out, as they are stored."""
    base, shift = int(pool.block.network_address), 128 - pool.length
    last = pool.first + pool.capacity - 1
    return (base + (pool.first << shift)).to_bytes(16, "big"), (base + (last << shift)).to_bytes(16, "big")
