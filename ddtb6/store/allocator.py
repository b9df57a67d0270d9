# SPDX-License-Identifier: GPL-2.0-or-later
"""Which piece of a pool an owner gets.

What the authenticator named, they get and nothing else. Otherwise, in this order: what they hold; what they released
and nobody got since, even in quarantine; the piece that has rested longest, its quarantine over; the lowest piece never
handed out.

A named piece may have any length from its pool's block to a /64. It overrides the quarantine of what rests there, and
never what somebody else holds. One that is no piece of its pool as that is carved stands in no pool ('').
Invariants: rows of `lease` never overlap (also after pools were renamed, moved or carved anew); `find` only reads,
`grant` only writes. Statement texts are constant, so that sqlite3 keeps them prepared.
Not here: who had what (`leases`), transactions (`writer`), the arithmetic of pools (`addressing.pool`), which pool a
request may use (`broker`).
"""

from __future__ import annotations

import enum
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Network
from typing import Any, NamedTuple

from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.ports import HoldsOther, NotGrantable, Opening, PoolExhausted, UnknownPool
from ddtb6.store.leases import COLUMNS, RELEASE, Row

LONGEST_PREFIX = 64

_OF_OWNER = f"SELECT {COLUMNS}, route FROM lease WHERE owner = ?"
_RESTED = "SELECT start FROM lease WHERE pool = ? AND released <= ? ORDER BY released"
# In the order of addresses from the last piece that begins at or before the first one asked about.
_FROM_BEFORE = """
    FROM lease WHERE start >= coalesce((SELECT max(start) FROM lease WHERE start <= :first), :first) AND start <= :last
    ORDER BY start
"""
_TAKEN = f"SELECT start, length {_FROM_BEFORE}"
_THERE = f"SELECT {COLUMNS}, route {_FROM_BEFORE}"
_GRANT_NEW = "INSERT INTO lease (start, length, pool, owner, granted, route) VALUES (?, ?, ?, ?, ?, ?)"
_GRANT_AGAIN = "UPDATE lease SET owner = ?, granted = ?, released = NULL, forgotten = 0, route = ? WHERE start = ?"
_TURN = "UPDATE lease SET route = ? WHERE start = ?"
_REMEMBER = f"INSERT INTO lease_history ({COLUMNS}) SELECT {COLUMNS} FROM lease WHERE start = ? AND forgotten = 0"
_DELETE = "DELETE FROM lease WHERE start = ?"
_HELD = "SELECT count(*) FROM lease WHERE pool = ? AND released IS NULL"
_RESTING = "SELECT count(*) FROM lease WHERE pool = ? AND released > ?"

# When the pools of the configuration are not those that the pieces were handed out of.
_LEAVE_POOL = "UPDATE lease SET pool = '' WHERE pool = ? AND NOT (start BETWEEN ? AND ? AND length = ?)"
_JOIN_POOL = "UPDATE lease SET pool = ? WHERE start BETWEEN ? AND ? AND length = ? AND pool <> ?"
_RESTED_STRAYS = "SELECT start FROM lease WHERE pool = '' AND released <= ? ORDER BY released LIMIT ?"


class _Way(enum.Enum):
    HELD = enum.auto()
    TURNED = enum.auto()
    """Held as a route, to be the prefix; or the other way round."""
    AGAIN = enum.auto()
    NEW = enum.auto()


class Piece(NamedTuple):
    """A piece for an owner, and what it takes to make it theirs."""

    pool: str
    start: int
    """The first address of the piece."""
    length: int
    way: _Way
    displaced: tuple[bytes, ...] = ()
    """Pieces of other lengths that overlap it: resting ones, or the owner's own."""


class Grants(NamedTuple):
    """All that an owner gets for a session."""

    address: Piece
    prefix: Piece | None
    routes: tuple[IPv6Network, ...]
    route_pieces: tuple[Piece, ...]
    """One for each of `routes`."""
    given_up: tuple[bytes, ...]
    """Pieces that the owner still holds, and loses."""


class Allocator:
    """Hands out the pieces of a set of pools."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = dict(pools)
        self._quarantine = max((pool.quarantine for pool in self._pools.values()), default=0.0)
        self._unused: dict[str, int] = {}
        """By pool an index below which every piece has been handed out: where to look for one that has not."""
        self.forget()

    def forget(self) -> None:
        """Drop what is remembered of the database; needed after a rollback."""
        self._unused = {name: pool.first for name, pool in self._pools.items()}

    # --- finding --------------------------------------------------------------------------------------------------

    def find(self, connection: sqlite3.Connection, opening: Opening, now: float) -> Grants:
        """What the owner gets. Raises UnknownPool, PoolExhausted, HoldsOther, NotGrantable."""
        owner, terms = opening.owner, opening.terms
        known = [Row(*row) for row in connection.execute(_OF_OWNER, (owner,))]
        routes = _widest(terms.routes) if terms.routes else ()

        wanted = self._named_address(opening)
        if wanted is None:
            address_pool = self._pool(opening.address_pool, prefixes=False)
            address = self._choose(connection, known, address_pool, now, strict=terms.address_pool is not None)
        else:
            address = self._named(connection, known, owner, wanted, Use.ACCOUNTS)

        prefix = None
        if opening.prefix_pool is not None:
            if terms.prefix is None:
                prefix_pool = self._pool(opening.prefix_pool, prefixes=True)
                strict = terms.prefix_pool is not None
                prefix = self._choose(connection, known, prefix_pool, now, strict=strict, avoid=routes)
            else:
                prefix = self._named(connection, known, owner, terms.prefix, Use.PREFIXES)
            if routes:
                routes = _outside(routes, IPv6Network((prefix.start, prefix.length)))

        pieces = tuple(self._named(connection, known, owner, route, Use.PREFIXES, as_route=True) for route in routes)
        return Grants(address, prefix, routes, pieces, _given_up(known, address, prefix, pieces))

    def _pool(self, name: str, *, prefixes: bool) -> Pool:
        pool = self._pools.get(name)
        if pool is None or (pool.use is Use.PREFIXES) is not prefixes:
            raise UnknownPool(name)
        return pool

    def _named_address(self, opening: Opening) -> IPv6Network | None:
        """The address that the authenticator named, as a /128."""
        terms = opening.terms
        if terms.address is not None:
            return IPv6Network(terms.address)
        if terms.interface_id is None:
            return None
        block = self._pool(opening.address_pool, prefixes=False).block
        if block.prefixlen > 64:
            raise NotGrantable(
                f"an interface id needs a pool of a /64 or more, and {opening.address_pool} is {block}: name an "
                "address instead"
            )
        return IPv6Network(int(block.network_address) + (terms.interface_id & (1 << 64) - 1))

    def _choose(
        self,
        connection: sqlite3.Connection,
        known: Sequence[Row],
        pool: Pool,
        now: float,
        *,
        strict: bool,
        avoid: Sequence[IPv6Network] = (),
    ) -> Piece:
        """A piece for the owner of the rows `known`, of `pool`; unless `strict`, what they hold of one like it.

        `avoid` is not handed out unless it is held already.
        """
        released: tuple[float, int, Row] | None = None
        for row in known:
            if (row.length == 128) != (pool.length == 128):
                continue
            source = self._pools.get(row.pool)
            suits = row.pool == pool.name if strict else source is not None and source.use is pool.use
            if row.released is not None:
                if suits and row.length == pool.length and _clear(row.first, row.length, avoid):
                    candidate = row.released, -row.first, row
                    released = candidate if released is None else max(released, candidate)
            elif suits and not row.route:
                if row.length != pool.length:
                    raise HoldsOther(row.lease())
                return Piece(row.pool, row.first, row.length, _Way.HELD)
        if released is not None:
            row = released[-1]
            return Piece(row.pool, row.first, row.length, _Way.AGAIN)
        for (start,) in connection.execute(_RESTED, (pool.name, now - pool.quarantine)):
            first = int.from_bytes(start, "big")
            if _clear(first, pool.length, avoid):
                return Piece(pool.name, first, pool.length, _Way.AGAIN)
        return Piece(pool.name, self._never_used(connection, pool, avoid), pool.length, _Way.NEW)

    def _never_used(self, connection: sqlite3.Connection, pool: Pool, avoid: Sequence[IPv6Network]) -> int:
        """The first address of the lowest piece never handed out. Raises PoolExhausted."""
        base, shift, beyond = int(pool.block.network_address), 128 - pool.length, pool.first + pool.capacity
        index = self._unused[pool.name] = self._skip_taken(connection, pool, self._unused[pool.name])
        while index < beyond:
            start = base + (index << shift)
            in_the_way = [each for each in avoid if not _clear(start, pool.length, (each,))]
            if not in_the_way:
                return start
            index = max(index, max(int(each[-1]) - base for each in in_the_way) >> shift) + 1
            index = self._skip_taken(connection, pool, index)
        raise PoolExhausted(pool.name)

    def _skip_taken(self, connection: sqlite3.Connection, pool: Pool, index: int) -> int:
        """The lowest index from `index` on of a piece that no row overlaps; perhaps beyond the pool."""
        base, shift = int(pool.block.network_address), 128 - pool.length
        if index >= pool.first + pool.capacity:
            return index
        span = {"first": (base + (index << shift)).to_bytes(16, "big"), "last": pool.block.broadcast_address.packed}
        for taken, length in connection.execute(_TAKEN, span):
            # Named pieces and those of an earlier carving may be larger or smaller than those of this pool.
            begin = int.from_bytes(taken, "big") - base
            end = begin + (1 << (128 - length))
            if begin >> shift > index:
                break
            index = max(index, (end - 1 >> shift) + 1)
        return index

    def _named(
        self,
        connection: sqlite3.Connection,
        known: Sequence[Row],
        owner: str,
        network: IPv6Network,
        use: Use,
        *,
        as_route: bool = False,
    ) -> Piece:
        """The piece that is exactly `network`. Raises NotGrantable."""
        length, start, last = network.prefixlen, network.network_address.packed, network.broadcast_address.packed
        pool = next((each for each in self._pools.values() if each.use is use and network.subnet_of(each.block)), None)
        if pool is None:
            raise NotGrantable(f"the authenticator named {_text(network)}, which is in no pool for {use.value}")
        first = int(network.network_address)
        if use is Use.PREFIXES:
            if length > LONGEST_PREFIX:
                raise NotGrantable(f"the authenticator named {network}, and nothing longer than a /64 is routed")
        elif first - int(pool.block.network_address) < pool.first:
            raise NotGrantable(f"the authenticator named {_text(network)}, which the broker itself uses")
        of_pool = pool.name if length == pool.length else ""

        for row in known:
            if row.start == start and row.length == length:
                if row.released is not None:
                    return Piece(row.pool, first, length, _Way.AGAIN)
                return Piece(row.pool, first, length, _Way.HELD if bool(row.route) is as_route else _Way.TURNED)
        way, displaced = _Way.NEW, []
        for row in map(Row._make, connection.execute(_THERE, {"first": start, "last": last})):
            if row.last < first:
                continue
            if row.released is None and row.owner != owner:
                held = _text(row.lease().prefix)
                raise NotGrantable(f"the authenticator named {_text(network)}, and {row.owner} holds {held}")
            if row.start == start and row.length == length:
                way, of_pool = _Way.AGAIN, row.pool
            else:
                displaced.append(row.start)
        return Piece(of_pool, first, length, way, tuple(displaced))

    # --- granting -------------------------------------------------------------------------------------------------

    def grant(self, connection: sqlite3.Connection, grants: Grants, owner: str, now: float) -> None:
        """Make the pieces the owner's."""
        for start in grants.given_up:
            connection.execute(RELEASE, (now, start))
        # All at once and before anything new stands: a larger piece of the owner's own may make room for several.
        pieces = (*grants.route_pieces, grants.address, *((grants.prefix,) if grants.prefix is not None else ()))
        for displaced in {start for piece in pieces for start in piece.displaced}:
            self._retire(connection, displaced)
        # Routes first: one of them may have been the prefix until now.
        for piece in grants.route_pieces:
            self._take(connection, piece, owner, now, route=1)
        self._take(connection, grants.address, owner, now)
        if grants.prefix is not None:
            self._take(connection, grants.prefix, owner, now)

    def _take(self, connection: sqlite3.Connection, piece: Piece, owner: str, now: float, route: int = 0) -> None:
        if piece.way is _Way.HELD:
            return
        start = piece.start.to_bytes(16, "big")
        if piece.way is _Way.NEW:
            connection.execute(_GRANT_NEW, (start, piece.length, piece.pool, owner, now, route))
        elif piece.way is _Way.AGAIN:
            connection.execute(_REMEMBER, (start,))
            connection.execute(_GRANT_AGAIN, (owner, now, route, start))
        else:
            connection.execute(_TURN, (route, start))

    def _retire(self, connection: sqlite3.Connection, start: bytes) -> None:
        """Make a piece that nobody holds history."""
        connection.execute(_REMEMBER, (start,))
        connection.execute(_DELETE, (start,))
        self.forget()  # pieces of a pool may be there that have not been handed out

    # --- the pools ------------------------------------------------------------------------------------------------

    def fit(self, connection: sqlite3.Connection, now: float) -> None:
        """Make `lease.pool` agree with the configured pools; to be done before anything else.

        Pieces follow their addresses, not the name of the pool. What fits no pool any more stays with its owner
        until they come back or it is released.
        """
        bounds = [(name, *_bounds(pool), pool.length) for name, pool in self._pools.items()]
        connection.executemany(_LEAVE_POOL, bounds)
        connection.executemany(_JOIN_POOL, [(*each, each[0]) for each in bounds])
        self.retire_strays(connection, now, -1)

    def retire_strays(self, connection: sqlite3.Connection, now: float, most: int) -> int:
        """Clear the addresses of up to `most` rested pieces that stand in no pool; returns how many. -1: all."""
        rested = connection.execute(_RESTED_STRAYS, (now - self._quarantine, most)).fetchall()
        for (start,) in rested:
            self._retire(connection, start)
        return len(rested)

    def usage(self, connection: sqlite3.Connection, now: float) -> dict[str, tuple[int, int]]:
        """By pool: pieces held, and pieces released and not yet to be had by others."""
        return {
            name: (
                connection.execute(_HELD, (name,)).fetchone()[0],
                connection.execute(_RESTING, (name, now - pool.quarantine)).fetchone()[0],
            )
            for name, pool in self._pools.items()
        }

    def rested(self, now: float) -> float:
        """The moment such that what was released before it has rested, of whichever pool it is."""
        return now - self._quarantine


def _given_up(known: Iterable[Row], address: Piece, prefix: Piece | None, routes: Sequence[Piece]) -> tuple[bytes, ...]:
    pieces = [address, *routes] if prefix is None else [address, prefix, *routes]
    kept = [piece.start for piece in pieces]
    displaced = [start for piece in pieces if piece.displaced for start in piece.displaced]
    lost = []
    for row in known:
        if row.released is not None:
            continue
        # A prefix that was not asked for stays, unless it is in the way.
        replaced = (row.length == 128 or row.route or prefix is not None) and row.first not in kept
        if replaced or row.start in displaced:
            lost.append(row.start)
    return tuple(lost)


def _widest(networks: Sequence[IPv6Network]) -> tuple[IPv6Network, ...]:
    """Without those that are inside another."""
    distinct = tuple(dict.fromkeys(networks))
    return tuple(each for each in distinct if not any(each != other and each.subnet_of(other) for other in distinct))


def _outside(routes: Iterable[IPv6Network], prefix: IPv6Network) -> tuple[IPv6Network, ...]:
    """Those that are not routed with the prefix already. Raises NotGrantable for one that contains it."""
    outside = tuple(each for each in routes if not each.subnet_of(prefix))
    for each in outside:
        if each.overlaps(prefix):
            raise NotGrantable(f"the authenticator named the route {each}, which contains the owner's prefix {prefix}")
    return outside


def _clear(first: int, length: int, networks: Iterable[IPv6Network]) -> bool:
    """Does the piece overlap none of `networks`?"""
    last = first + (1 << (128 - length)) - 1
    return not any(int(each[0]) <= last and first <= int(each[-1]) for each in networks)


def _text(network: IPv6Network) -> str:
    return str(network.network_address if network.prefixlen == 128 else network)


def _bounds(pool: Pool) -> tuple[Any, Any]:
    """The first addresses of the first and the last piece that the pool hands out, as they are stored."""
    base, shift = int(pool.block.network_address), 128 - pool.length
    last = pool.first + pool.capacity - 1
    return (base + (pool.first << shift)).to_bytes(16, "big"), (base + (last << shift)).to_bytes(16, "big")
