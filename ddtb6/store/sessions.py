# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about sessions: opened, counted, ended, and asked about later.

An anonymous session from whose client no packet came leaves no row: who fakes log-ins by the million would fill the
disk with them.
Invariants: an ended session never changes; ids rise and are never used twice.
Not here: the leases that a session uses (`leases`), transactions (`writer`), what others are told (`journal`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network
from typing import Any, TypeVar

from ddtb6.addressing.endpoint import Encapsulation, Endpoint, ends
from ddtb6.broker.ports import Ending, Lease, Opening, PastSession, Session, Terms
from ddtb6.store import terms
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

T = TypeVar("T")

_NO_COUNTERS = Counters()
_NOTHING_COUNTED = (0, 0, 0, 0, None)
_REFUSALS = {each.value: each for each in Refusal}
_REASONS = {each.value: each for each in EndReason}

_INSERT = """
    INSERT INTO session (
        owner, user, remote_address, remote_port, local_address, local_port, carrier, encapsulation,
        address, prefix, prefix_length, mtu, idle_limit, mechanism, client_version, started, routes, terms
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ENDPOINTS = "id, owner, user, remote_address, remote_port, local_address, local_port"
_PREFIX = "address, prefix, prefix_length"
COUNTERS = "packets_in, octets_in, packets_out, octets_out, refused"
COLUMNS = (
    f"{_ENDPOINTS}, {_PREFIX}, encapsulation, mtu, mechanism, client_version, idle_limit, started, routes, terms, "
    f"{COUNTERS}, counted_before"
)
"""What `session` makes a Session of."""
_LIVE = f"SELECT {COLUMNS} FROM session WHERE ended IS NULL ORDER BY id"
_PAST = f"SELECT {_ENDPOINTS}, {_PREFIX}, mechanism, client_version, started, ended, reason, {COUNTERS} FROM session"
_NEWEST = f"{_PAST} ORDER BY id DESC LIMIT ?"
_NEWEST_OF_OWNER = f"{_PAST} WHERE owner = ? ORDER BY started DESC, id DESC LIMIT ?"
_CARRYING_ADDRESS = f"""
    {_PAST} WHERE owner = ? AND started < ? AND (ended IS NULL OR ended > ?) AND address = ?
    ORDER BY started DESC, id DESC
"""
_CARRYING_PREFIX = f"""
    {_PAST} WHERE owner = ? AND started < ? AND (ended IS NULL OR ended > ?)
    AND (prefix = ? AND prefix_length = ? OR EXISTS (SELECT 1 FROM json_each(routes) WHERE value = ?))
    ORDER BY started DESC, id DESC
"""
_COUNT = """
    UPDATE session SET packets_in = ?, octets_in = ?, packets_out = ?, octets_out = ?, refused = ?
    WHERE id = ? AND ended IS NULL
"""
_COUNT_ANEW = "UPDATE session SET counted_before = ? WHERE id = ? AND ended IS NULL"
_END = """
    UPDATE session
    SET packets_in = ?, octets_in = ?, packets_out = ?, octets_out = ?, refused = ?, ended = ?, reason = ?
    WHERE id = ? AND ended IS NULL RETURNING owner
"""
_LIVES = "SELECT 1 FROM session WHERE owner = ? AND ended IS NULL"
_FORGET = "DELETE FROM session WHERE id = ?"
_CHANGE_TERMS = "UPDATE session SET terms = ?, idle_limit = coalesce(?, idle_limit) WHERE id = ? AND ended IS NULL"
_PRUNE = "DELETE FROM session WHERE id IN (SELECT id FROM session WHERE ended < ? LIMIT ?)"

_TOWARDS_CLIENT = frozenset({Refusal.TOO_BIG, Refusal.NOT_SENT})
"""Refusals of packets that anybody may have sent, to the client."""


def insert(
    connection: sqlite3.Connection,
    opening: Opening,
    address: int,
    prefix: tuple[int, int] | None,
    routes: tuple[IPv6Network, ...],
    now: float,
) -> Session:
    """Write a session that begins now. `prefix` is its first address and its length."""
    carrier = opening.link.carrier
    local, remote = ends(opening.encapsulation, opening.link)
    cursor = connection.execute(
        _INSERT,
        (
            opening.owner,
            opening.user,
            remote[0],
            remote[1],
            local[0],
            local[1],
            carrier.value,
            opening.encapsulation.value,
            address.to_bytes(16, "big"),
            None if prefix is None else prefix[0].to_bytes(16, "big"),
            None if prefix is None else prefix[1],
            opening.mtu,
            opening.idle_limit,
            opening.mechanism,
            opening.client_version,
            now,
            json.dumps([str(each) for each in routes]) if routes else None,
            terms.write(opening.terms),
        ),
    )
    row = cursor.lastrowid
    assert row is not None, "an INSERT into a table with row ids gives one"
    spec = TunnelSpec(
        TunnelId(row),
        opening.encapsulation,
        local,
        remote,
        IPv6Address(address),
        None if prefix is None else IPv6Network(prefix),
        opening.mtu,
        routes,
    )
    return Session(
        spec.id,
        opening.owner,
        opening.user,
        spec,
        opening.mechanism,
        opening.client_version,
        opening.idle_limit,
        now,
        _NO_COUNTERS,
        opening.terms,
    )


def end(connection: sqlite3.Connection, ending: Ending, now: float) -> str | None:
    """Write an ending and return the owner; None, with nothing written, when the session has ended already."""
    values = (*_counted(ending.counters), now, ending.reason.value, ending.id)
    ended = connection.execute(_END, values).fetchall()
    return ended[0][0] if ended else None


def forget_silent(connection: sqlite3.Connection, ending: Ending) -> None:
    """Delete the row of an ended session, if no packet came from its client."""
    counters = ending.counters
    if not counters.packets_in and _TOWARDS_CLIENT.issuperset(counters.refused):
        connection.execute(_FORGET, (ending.id,))


def lives(connection: sqlite3.Connection, owner: str) -> bool:
    """Has the owner a live session?"""
    return connection.execute(_LIVES, (owner,)).fetchone() is not None


def change_terms(connection: sqlite3.Connection, tunnel: TunnelId, changed: Terms) -> None:
    """Write new terms of a live session, and the idle limit that they say."""
    connection.execute(_CHANGE_TERMS, (terms.write(changed), changed.idle_limit, tunnel))


def count(connection: sqlite3.Connection, carried: Iterable[tuple[TunnelId, Counters]]) -> None:
    """Write what live sessions have carried so far."""
    connection.executemany(_COUNT, [(*_counted(counters), tunnel) for tunnel, counters in carried])


def count_anew(connection: sqlite3.Connection, carried: Iterable[tuple[TunnelId, Counters]]) -> None:
    """Write what live sessions had carried when their tunnels are raised anew."""
    rows = [(json.dumps([*(counted := _counted(counters))[:4], counted[4]]), tunnel) for tunnel, counters in carried]
    connection.executemany(_COUNT_ANEW, rows)


def live(connection: sqlite3.Connection) -> list[Session]:
    """Sessions that have not ended, oldest first."""
    return [session(row) for row in connection.execute(_LIVE)]


def newest(connection: sqlite3.Connection, owner: str | None, limit: int) -> list[PastSession]:
    """The newest `limit` sessions, live ones included, newest first."""
    if owner is None:
        return [_past(row) for row in connection.execute(_NEWEST, (limit,))]
    return [_past(row) for row in connection.execute(_NEWEST_OF_OWNER, (owner, limit))]


def carrying(connection: sqlite3.Connection, lease: Lease, at: float) -> list[PastSession]:
    """Sessions of the lease's owner that used it in the second that begins at `at`, newest first."""
    start = lease.prefix.network_address.packed
    owner_and_time = (lease.owner, at + 1, at)
    if lease.prefix.prefixlen == 128:
        rows = connection.execute(_CARRYING_ADDRESS, (*owner_and_time, start))
    else:
        as_route = str(lease.prefix)
        rows = connection.execute(_CARRYING_PREFIX, (*owner_and_time, start, lease.prefix.prefixlen, as_route))
    return [_past(row) for row in rows]


def prune(connection: sqlite3.Connection, before: float, most: int) -> int:
    """Forget up to `most` sessions that ended before `before`; returns how many went."""
    return connection.execute(_PRUNE, (before, most)).rowcount


def _counted(counters: Counters) -> tuple[int, int, int, int, str | None]:
    refused = {reason.value: packets for reason, packets in counters.refused.items()}
    return (
        counters.packets_in,
        counters.octets_in,
        counters.packets_out,
        counters.octets_out,
        json.dumps(refused) if refused else None,
    )


def counters(row: tuple[Any, ...]) -> Counters:
    """The Counters in a row of the columns that are named so."""
    if row == _NOTHING_COUNTED:
        return _NO_COUNTERS
    packets_in, octets_in, packets_out, octets_out, text = row
    # A newer release may have counted for reasons that this one has no name for.
    refused = {_REFUSALS[name]: n for name, n in json.loads(text).items() if name in _REFUSALS} if text else {}
    return Counters(packets_in, octets_in, packets_out, octets_out, refused)


def reason_of(text: str | None) -> EndReason | None:
    """None, too, for a reason of a newer release."""
    return None if text is None else _REASONS.get(text)


def _prefix(start: bytes | None, length: int | None) -> IPv6Network | None:
    return None if start is None else IPv6Network((start, length))


@lru_cache(maxsize=256, typed=True)
def _shared(value: T) -> T:
    """The one object of what thousands of live sessions have in common."""
    return value


def session(row: tuple[Any, ...]) -> Session:
    """The Session in a row of `COLUMNS`."""
    tunnel, owner, user, remote, remote_port, local, local_port, address, prefix, length = row[:10]
    encapsulation, mtu, mechanism, client_version, idle_limit, started, routes, said = row[10:18]
    spec = TunnelSpec(
        tunnel,
        Encapsulation(encapsulation),
        _shared(Endpoint(local, local_port)),
        Endpoint(remote, remote_port),
        IPv6Address(address),
        _prefix(prefix, length),
        mtu,
        tuple(map(IPv6Network, json.loads(routes))) if routes else (),
    )
    return Session(
        tunnel,
        owner,
        user,
        spec,
        _shared(mechanism),
        _shared(client_version),
        _shared(idle_limit),
        started,
        counters(row[18:23]),
        terms.read(said),
        _NO_COUNTERS if row[23] is None else counters(tuple(json.loads(row[23]))),
    )


def _past(row: tuple[Any, ...]) -> PastSession:
    tunnel, owner, user, remote, remote_port, local, local_port, address, prefix, length = row[:10]
    mechanism, client_version, started, ended, reason = row[10:15]
    return PastSession(
        tunnel,
        owner,
        user,
        Endpoint(remote, remote_port),
        Endpoint(local, local_port),
        IPv6Address(address),
        _prefix(prefix, length),
        mechanism,
        client_version,
        started,
        ended,
        reason_of(reason),
        counters(row[15:]),
    )
