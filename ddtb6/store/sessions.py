# SPDX-License-Identifier: GPL-2.0-or-later
"""Statements about sessions: opened, counted, ended, and asked about later.

Invariants: an ended session never changes; ids rise and are never used twice.
Not here: the leases that a session uses (`leases`), transactions (`writer`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from ddtb6.addressing.endpoint import Encapsulation, Endpoint
from ddtb6.broker.ports import Ending, Lease, Opening, PastSession, Session
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.spec import Counters, TunnelId, TunnelSpec

_NO_COUNTERS = Counters()
_REFUSALS = {each.value: each for each in Refusal}
_REASONS = {each.value: each for each in EndReason}

_INSERT = """
    INSERT INTO session (
        owner, user, remote_address, remote_port, local_address, local_port, carrier, encapsulation,
        address, prefix, prefix_length, mtu, idle_limit, mechanism, client_version, started
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ENDPOINTS = "id, owner, user, remote_address, remote_port, local_address, local_port"
_PREFIX = "address, prefix, prefix_length"
_COUNTERS = "packets_in, octets_in, packets_out, octets_out, refused"
_LIVE = f"""
    SELECT {_ENDPOINTS}, {_PREFIX}, encapsulation, mtu, mechanism, client_version, idle_limit, started, {_COUNTERS}
    FROM session WHERE ended IS NULL ORDER BY id
"""
_PAST = f"SELECT {_ENDPOINTS}, {_PREFIX}, mechanism, client_version, started, ended, reason, {_COUNTERS} FROM session"
_NEWEST = f"{_PAST} ORDER BY id DESC LIMIT ?"
_NEWEST_OF_OWNER = f"{_PAST} WHERE owner = ? ORDER BY started DESC, id DESC LIMIT ?"
_CARRYING_ADDRESS = f"""
    {_PAST} WHERE owner = ? AND started < ? AND (ended IS NULL OR ended > ?) AND address = ?
    ORDER BY started DESC, id DESC
"""
_CARRYING_PREFIX = f"""
    {_PAST} WHERE owner = ? AND started < ? AND (ended IS NULL OR ended > ?) AND prefix = ? AND prefix_length = ?
    ORDER BY started DESC, id DESC
"""
_COUNT = """
    UPDATE session SET packets_in = ?, octets_in = ?, packets_out = ?, octets_out = ?, refused = ?
    WHERE id = ? AND ended IS NULL
"""
_END = """
    UPDATE session
    SET packets_in = ?, octets_in = ?, packets_out = ?, octets_out = ?, refused = ?, ended = ?, reason = ?
    WHERE id = ? AND ended IS NULL RETURNING owner
"""
_LIVES = "SELECT 1 FROM session WHERE owner = ? AND ended IS NULL"
# The newest row stays, so that the next id is a new one.
_PRUNE = """
    DELETE FROM session WHERE id IN (
        SELECT id FROM session WHERE ended < ? AND id <> (SELECT max(id) FROM session) LIMIT ?
    )
"""


def insert(
    connection: sqlite3.Connection, opening: Opening, address: int, prefix: tuple[int, int] | None, now: float
) -> Session:
    """Write a session that begins now. `prefix` is its first address and its length."""
    carrier, local, remote = opening.link
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
    )


def end(connection: sqlite3.Connection, endings: Iterable[Ending], now: float) -> set[str]:
    """Write endings; those of sessions that have ended already change nothing. Returns the owners left without any."""
    owners: set[str] = set()
    for ending in endings:
        values = (*_counted(ending.counters), now, ending.reason.value, ending.id)
        owners.update(row[0] for row in connection.execute(_END, values).fetchall())
    return {owner for owner in owners if connection.execute(_LIVES, (owner,)).fetchone() is None}


def count(connection: sqlite3.Connection, carried: Iterable[tuple[TunnelId, Counters]]) -> None:
    """Write what live sessions have carried so far."""
    connection.executemany(_COUNT, [(*_counted(counters), tunnel) for tunnel, counters in carried])


def live(connection: sqlite3.Connection) -> list[Session]:
    """Sessions that have not ended, oldest first."""
    return [_session(row) for row in connection.execute(_LIVE)]


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
        rows = connection.execute(_CARRYING_PREFIX, (*owner_and_time, start, lease.prefix.prefixlen))
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


def _counters(row: tuple[Any, ...]) -> Counters:
    packets_in, octets_in, packets_out, octets_out, text = row
    # A newer release may have counted for reasons that this one has no name for.
    refused = {_REFUSALS[name]: n for name, n in json.loads(text).items() if name in _REFUSALS} if text else {}
    return Counters(packets_in, octets_in, packets_out, octets_out, refused)


def _prefix(start: bytes | None, length: int | None) -> IPv6Network | None:
    return None if start is None else IPv6Network((start, length))


def _session(row: tuple[Any, ...]) -> Session:
    tunnel, owner, user, remote, remote_port, local, local_port, address, prefix, length = row[:10]
    encapsulation, mtu, mechanism, client_version, idle_limit, started = row[10:16]
    spec = TunnelSpec(
        tunnel,
        Encapsulation(encapsulation),
        Endpoint(local, local_port),
        Endpoint(remote, remote_port),
        IPv6Address(address),
        _prefix(prefix, length),
        mtu,
    )
    return Session(tunnel, owner, user, spec, mechanism, client_version, idle_limit, started, _counters(row[16:]))


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
        _REASONS.get(reason),
        _counters(row[15:]),
    )
