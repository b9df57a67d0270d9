# SPDX-License-Identifier: GPL-2.0-or-later
"""Group commit: what waits to be written goes to disk as one transaction, and is answered after it.

The statements run where they are submitted, on the reactor's thread; only the COMMIT, which waits for the disk, runs in
another. While it does, further operations collect for the next batch: many sessions, one sync. Statements take
microseconds; run in a thread beside a busy reactor, each would pass the interpreter lock to and fro, which cost 30 % of
the log-ins on two cores and four times the delay.

Invariants: one batch at a time is under way, operations run in the order they were submitted, and nothing is answered
before its commit. An operation that refuses (`REFUSALS`) does so before it writes; the others of its batch need no
savepoints then. Operations are short: `Store` cuts long jobs into slices.
Not here: what is written (`allocator`, `leases`, `sessions`, `journal`, `accounts`), the thread (`app`).
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.python.failure import Failure

from ddtb6.broker.ports import (
    AccountExists,
    HoldsOther,
    NoSuchAccount,
    NotGrantable,
    PoolExhausted,
    StoreBusy,
    StoreError,
    UnknownPool,
)
from ddtb6.store.database import LOCK_PATIENCE

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
"""Reads and writes inside a transaction that is not its own."""

REFUSALS = (PoolExhausted, UnknownPool, HoldsOther, NotGrantable, AccountExists, NoSuchAccount)

LONGEST_QUEUE = 100_000
"""Operations that may wait; a storm of twice the clients this is built for."""
LARGEST_BATCH = 250
"""Operations in one transaction: the sync weighs little by then, and the reactor is held up for some 15 ms."""


class InThread(Protocol):
    """Runs a function off the reactor's thread, one at a time, and fires on the reactor's thread."""

    def __call__(self, function: Callable[[], T], /) -> Deferred[T]: ...


class Writer:
    """Owns the connection that writes."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        in_thread: InThread,
        later: Callable[[Callable[[], None]], object] | None = None,
        rolled_back: Callable[[], None] = lambda: None,
    ) -> None:
        """`later` calls its argument at the end of this reactor turn, so that what is read in one turn is one batch.

        `rolled_back` is called when operations were undone, to drop what they remember of the database.
        """
        self._connection = connection
        self._in_thread = in_thread
        self._later = later
        self._rolled_back = rolled_back
        self._waiting: deque[tuple[Operation[Any], Deferred[Any]]] = deque()
        self._awake = False
        """`_run` is under way, or will be at the end of this turn."""
        self._suspects = 0
        """How many of the first that wait were in a batch that failed, and go alone."""
        self._closing: list[Deferred[None]] = []
        self._closed = False
        connection.execute("PRAGMA busy_timeout = 0")  # waiting is for the thread

    def submit(self, operation: Operation[T]) -> Deferred[T]:
        """Fires with what `operation` returned once that is on stable storage.

        Fails with a refusal of the operation, with StoreBusy, or with StoreError when the database would not take it.
        """
        if self._closing or self._closed:
            return fail(StoreError("The store is closed."))
        if len(self._waiting) >= LONGEST_QUEUE:
            return fail(StoreBusy(f"{LONGEST_QUEUE} writes are waiting for the disk."))
        answer: Deferred[T] = Deferred()
        self._waiting.append((operation, answer))
        self._wake()
        return answer

    def close(self) -> Deferred[None]:
        """Write what waits, then close the connection. Fires when that is done."""
        answer: Deferred[None] = Deferred()
        self._closing.append(answer)
        self._wake()
        return answer

    def _wake(self) -> None:
        if self._awake:
            return
        self._awake = True
        if self._later is None:
            self._start()
        else:
            self._later(self._start)

    def _start(self) -> None:
        ensureDeferred(self._run())

    async def _run(self) -> None:
        """Commit one batch after the other until nothing waits."""
        while self._waiting:
            size = 1 if self._suspects else min(len(self._waiting), LARGEST_BATCH)
            self._suspects = max(0, self._suspects - size)
            batch = [self._waiting.popleft() for _ in range(size)]
            outcomes = await self._transact([operation for operation, _ in batch])
            if outcomes is None:
                self._waiting.extendleft(reversed(batch))
                self._suspects = size
                continue
            # What these answers submit finds the writer awake, and becomes one batch.
            for (_, answer), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Failure):
                    answer.errback(outcome)
                else:
                    answer.callback(outcome)
        if self._closing and not self._closed:
            self._closed = True
            try:
                await self._in_thread(self._connection.close)
            except Exception:
                self._closing.pop().errback(Failure())
        while self._closing:
            self._closing.pop().callback(None)
        self._awake = False

    async def _transact(self, operations: Sequence[Operation[Any]]) -> list[Any] | None:
        """One result or Failure for each, committed. None, with nothing written, when one of several has a fault."""
        connection = self._connection
        try:
            await self._begin()
            changes = connection.total_changes
            outcomes = [self._perform(each) for each in operations]
            if connection.total_changes == changes:
                self._commit()  # nothing to sync
            else:
                await self._in_thread(self._commit)
        except Exception as error:
            self._rolled_back()
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                # Disk full, I/O error, locked by another process: the next batch may fare better.
                failure = Failure(StoreError(f"The database did not take a write: {error}"))
                return [failure] * len(operations)
            return [Failure()] if len(operations) == 1 else None
        return outcomes

    def _perform(self, operation: Operation[Any]) -> Any:
        changes = self._connection.total_changes
        try:
            return operation(self._connection)
        except REFUSALS as refusal:
            if self._connection.total_changes != changes:
                raise AssertionError("an operation wrote before it refused") from refusal
            return Failure()

    async def _begin(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            await self._in_thread(self._begin_patiently)

    def _begin_patiently(self) -> None:
        """In the thread: another process writes."""
        self._connection.execute(f"PRAGMA busy_timeout = {int(LOCK_PATIENCE * 1000)}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        finally:
            self._connection.execute("PRAGMA busy_timeout = 0")

    def _commit(self) -> None:
        self._connection.execute("COMMIT")
