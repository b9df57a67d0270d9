# SPDX-License-Identifier: GPL-2.0-or-later
"""The store: one SQLite file that has the accounts, the leases and the sessions.

Everything but `find_account` goes through the writer, reads too: they see what was submitted before them. Large jobs
are cut into slices, so that log-ins get in between.
Invariants: SQLite is the truth, nothing is cached; times are epoch seconds read when a method is called.
Not here: how batches are committed (`writer`), who gets what (`allocator`), statements (`leases`, `sessions`,
`journal`, `accounts`, `management`, `past`), the file (`database`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, TypeVar

from ddtb6.addressing.pool import Pool
from ddtb6.broker.history import WEEK, Cell, Recorded, Span
from ddtb6.broker.journal import Record, RecordKind
from ddtb6.broker.management import Administrator, AuditEntry, Token
from ddtb6.broker.ports import (
    Account,
    Clock,
    Ending,
    Holding,
    Lease,
    Opening,
    PastSession,
    Session,
    StoreError,
    Terms,
)
from ddtb6.store import accounts, journal, leases, management, past, sessions
from ddtb6.store.allocator import Allocator
from ddtb6.store.database import explained, open_reader, open_writer
from ddtb6.store.writer import InThread, Writer
from ddtb6.tunnel.spec import Counters, TunnelId

T = TypeVar("T")

AUDIT_LIMIT = 200_000
"""Entries of the audit log that are kept at most, however young; some 40 MB."""
SLICE = 500
"""Rows that one operation of a large job reads or writes; a few milliseconds."""
RINGS = 100
"""The same of rows that are a page each, and are unpacked and packed."""


def open_store(
    path: Path,
    pools: Mapping[str, Pool],
    clock: Clock,
    *,
    in_thread: InThread,
    later: Callable[[Callable[[], None]], object] | None = None,
    journal: bool = False,
) -> Store:
    """The store in the file at `path`, which is made if there is none. Raises StoreError with a sentence.

    `in_thread` runs a function in a thread of the store's own, never two at once, or for a tool in this one
    (`twisted.internet.defer.execute`). `later` calls a function at the end of the reactor's turn: what was asked for in
    one turn is then committed together. `journal`: somebody is to be told of sessions, so records of them are kept.
    """
    connection = open_writer(path)
    try:
        allocator = Allocator(pools)
        with explained(path):
            connection.execute("BEGIN IMMEDIATE")
            allocator.fit(connection, clock.epoch())
            connection.execute("COMMIT")
        writer = Writer(connection, in_thread, later, allocator.forget)
        return Store(writer, open_reader(path), allocator, clock, journal)
    except BaseException:
        connection.close()
        raise


class Store:
    """Implements the stores of `ports`, `management`, `history` and `journal`. Made by `open_store`."""

    def __init__(
        self,
        writer: Writer,
        reader: sqlite3.Connection,
        allocator: Allocator,
        clock: Clock,
        journalled: bool,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._allocator = allocator
        self._clock = clock
        self._journalled = journalled

    async def close(self) -> None:
        """Write what is waiting, then let go of the file."""
        await self._writer.close()
        self._reader.close()

    # --- sessions and leases ---

    async def open_session(self, opening: Opening) -> Session:
        return await self._writer.submit(partial(self._open, opening, self._clock.epoch()))

    def _open(self, opening: Opening, now: float, connection: sqlite3.Connection) -> Session:
        grants = self._allocator.find(connection, opening, now)
        # Nothing below refuses.
        self._allocator.grant(connection, grants, opening.owner, now)
        prefix = None if grants.prefix is None else (grants.prefix.start, grants.prefix.length)
        session = sessions.insert(connection, opening, grants.address.start, prefix, grants.routes, now)
        if self._journalled:
            journal.record(connection, RecordKind.START, session.id, now)
        return session

    async def close_sessions(self, endings: Sequence[Ending]) -> None:
        now = self._clock.epoch()

        for start in range(0, len(endings), SLICE):
            await self._writer.submit(partial(self._end, endings[start : start + SLICE], now))

    def _end(self, endings: Sequence[Ending], now: float, connection: sqlite3.Connection) -> None:
        anonymous: set[str] = set()
        for ending in endings:
            owner = sessions.end(connection, ending, now)
            if owner is None:
                continue
            if self._journalled:
                journal.record(connection, RecordKind.STOP, ending.id, now)
            if owner.startswith("anonymous:"):
                sessions.forget_silent(connection, ending)
                anonymous.add(owner)
        for owner in anonymous:
            if not sessions.lives(connection, owner):
                leases.release_anonymous(connection, owner, now)

    async def checkpoint(
        self, carried: Mapping[TunnelId, Counters], *, interim: bool = False, anew: bool = False
    ) -> None:
        now = self._clock.epoch()
        rows = list(carried.items())

        def count(some: Sequence[tuple[TunnelId, Counters]], connection: sqlite3.Connection) -> None:
            sessions.count(connection, some)
            if anew:
                sessions.count_anew(connection, some)
            if interim and self._journalled:
                journal.record_interim(connection, [tunnel for tunnel, _ in some], now)

        for start in range(0, len(rows), SLICE):
            await self._writer.submit(partial(count, rows[start : start + SLICE]))

    async def change_terms(self, tunnel: TunnelId, terms: Terms) -> None:
        await self._writer.submit(lambda connection: sessions.change_terms(connection, tunnel, terms))

    async def live_sessions(self) -> Sequence[Session]:
        return await self._writer.submit(sessions.live)

    async def release(self, owner: str) -> Sequence[Lease]:
        now = self._clock.epoch()
        return await self._writer.submit(lambda connection: leases.release(connection, owner, now))

    async def whois(self, address: IPv6Address, at: float | None = None) -> Holding | None:
        second = self._clock.epoch() if at is None else at

        def ask(connection: sqlite3.Connection) -> Holding | None:
            lease = leases.holder(connection, address, second)
            return None if lease is None else Holding(lease, tuple(sessions.carrying(connection, lease, second)))

        return await self._writer.submit(ask)

    async def leases(self, owner: str | None = None, *, held: bool = True, limit: int = 1000) -> Sequence[Lease]:
        if not held:
            found = await self._writer.submit(lambda connection: leases.released_last(connection, owner, limit))
        elif owner is not None:
            found = await self._writer.submit(lambda connection: leases.held_by(connection, owner))
        else:
            found = page = await self._writer.submit(partial(leases.page_of_held, after=b"", most=SLICE))
            while len(page) == SLICE:
                after = page[-1].prefix.network_address.packed
                page = await self._writer.submit(partial(leases.page_of_held, after=after, most=SLICE))
                found += page
        return sorted(found, key=lambda lease: (lease.granted, lease.prefix))

    async def leases_behind(self, after: IPv6Address | None, limit: int) -> Sequence[Lease]:
        packed = b"" if after is None else after.packed
        return await self._writer.submit(partial(leases.page_of_held, after=packed, most=limit))

    async def past_sessions(self, owner: str | None = None, limit: int = 100) -> Sequence[PastSession]:
        return await self._writer.submit(lambda connection: sessions.newest(connection, owner, limit))

    async def pool_usage(self) -> Mapping[str, tuple[int, int]]:
        now = self._clock.epoch()
        return await self._writer.submit(lambda connection: self._allocator.usage(connection, now))

    async def pool_growth(self) -> Mapping[str, float]:
        now = self._clock.epoch()
        return await self._writer.submit(partial(leases.growth, now=now, window=WEEK))

    async def prune(self, before: float) -> int:
        now = self._clock.epoch()
        await self._in_slices(lambda connection: self._allocator.retire_strays(connection, now, SLICE))
        rested = min(before, self._allocator.rested(now))
        await self._in_slices(lambda connection: leases.forget_owners(connection, rested, SLICE))
        await self._in_slices(partial(management.prune_audit, before=before, most=SLICE))
        await self._in_slices(partial(management.trim_audit, keep=AUDIT_LIMIT, most=SLICE))
        await self._in_slices(partial(past.trim_rings, before=now - WEEK, most=SLICE))
        ended = await self._in_slices(partial(sessions.prune, before=before, most=SLICE))
        return ended + await self._in_slices(partial(leases.prune, before=before, most=SLICE))

    async def _in_slices(self, remove: Callable[[sqlite3.Connection], int]) -> int:
        """Repeat `remove`, which returns how many went, until they are less than a slice; returns how many in all."""
        gone = gone_now = await self._writer.submit(remove)
        while gone_now == SLICE:
            gone_now = await self._writer.submit(remove)
            gone += gone_now
        return gone

    # --- journal ---

    async def append(self, kind: RecordKind) -> None:
        now = self._clock.epoch()
        if self._journalled:
            await self._writer.submit(lambda connection: journal.append(connection, kind, now))

    async def waiting(self, after: int, limit: int) -> Sequence[Record]:
        found: list[Record] = []
        while len(found) < limit:
            most = min(limit - len(found), SLICE)
            page = await self._writer.submit(partial(journal.waiting, after=after, limit=most))
            found += page
            if len(page) < most:
                break
            after = page[-1].number
        return found

    async def acknowledge(self, numbers: Collection[int]) -> None:
        every = list(numbers)
        for start in range(0, len(every), SLICE):
            await self._writer.submit(partial(journal.acknowledge, numbers=every[start : start + SLICE]))

    async def backlog(self) -> int:
        return await self._writer.submit(journal.backlog)

    # --- accounts ---

    def find_account(self, name: str) -> Account | None:
        return self._read(accounts.find, name)

    def _read(self, find: Callable[..., T], *asked: Any) -> T:
        """At once, by an index."""
        try:
            return find(self._reader, *asked)
        except sqlite3.Error as error:
            raise StoreError(f"The database cannot be read: {error}") from error

    async def add_account(self, account: Account) -> None:
        await self._writer.submit(lambda connection: accounts.add(connection, account))

    async def set_secrets(self, name: str, digest: bytes | None, password_hash: str | None) -> None:
        await self._writer.submit(lambda connection: accounts.set_secrets(connection, name, digest, password_hash))

    async def set_disabled(self, name: str, disabled: bool) -> None:
        await self._writer.submit(lambda connection: accounts.set_disabled(connection, name, disabled))

    async def delete_account(self, name: str) -> None:
        now = self._clock.epoch()

        def delete(connection: sqlite3.Connection) -> None:
            accounts.delete(connection, name)
            management.delete_tokens_of(connection, name)
            past.delete_ring(connection, f"user:{name}")
            leases.release(connection, f"user:{name}", now)

        await self._writer.submit(delete)

    async def set_account_terms(self, name: str, terms: Terms) -> None:
        await self._writer.submit(lambda connection: accounts.set_terms(connection, name, terms))

    async def accounts(self, search: str = "", after: str = "", limit: int | None = None) -> Sequence[Account]:
        found: list[Account] = []
        while limit is None or len(found) < limit:
            most = SLICE if limit is None else min(SLICE, limit - len(found))
            page = await self._writer.submit(partial(accounts.page, search=search, after=after, most=most))
            found += page
            if len(page) < most:
                break
            after = page[-1].name
        return found

    # --- management ---

    def find_administrator(self, name: str) -> Administrator | None:
        return self._read(management.find_administrator, name)

    def any_administrator(self) -> bool:
        return self._read(management.any_administrator)

    async def administrators(self) -> Sequence[Administrator]:
        return await self._writer.submit(management.administrators)

    async def add_administrator(self, administrator: Administrator) -> None:
        await self._writer.submit(lambda connection: management.add_administrator(connection, administrator))

    async def set_administrator_password(self, name: str, password_hash: str) -> None:
        change = partial(management.set_administrator_password, name=name, password_hash=password_hash)
        await self._writer.submit(change)

    async def delete_administrator(self, name: str) -> None:
        await self._writer.submit(partial(management.delete_administrator, name=name))

    def find_token(self, hash: bytes) -> Token | None:
        return self._read(management.find_token, hash)

    async def tokens(self) -> Sequence[Token]:
        return await self._writer.submit(management.tokens)

    async def add_token(self, token: Token) -> None:
        await self._writer.submit(partial(management.add_token, token=token))

    async def delete_token(self, name: str) -> None:
        await self._writer.submit(partial(management.delete_token, name=name))

    async def write_audit(self, who: str, source: str, action: str, subject: Mapping[str, object], failed: str) -> None:
        entry = (self._clock.epoch(), who, source, action, subject, failed)
        await self._writer.submit(lambda connection: management.write_audit(connection, *entry))

    async def audit(self, before: int | None = None, limit: int = 100) -> Sequence[AuditEntry]:
        return await self._writer.submit(partial(management.audit, before=before, most=limit))

    # --- the past ---

    async def past(self) -> Recorded:
        return await self._writer.submit(past.recorded)

    async def write_past(self, spans: Mapping[int, Sequence[Span]], until: float, before: Mapping[int, int]) -> None:
        await self._writer.submit(partial(past.write, spans=spans, until=until, before=before))

    async def ring(self, owner: str) -> bytes | None:
        return await self._writer.submit(partial(past.ring_of, owner=owner))

    async def add_cells(self, cells: Mapping[str, Sequence[Cell]]) -> None:
        now = self._clock.epoch()
        every = list(cells.items())
        for start in range(0, len(every), RINGS):
            await self._writer.submit(partial(past.add_cells, cells=dict(every[start : start + RINGS]), now=now))
