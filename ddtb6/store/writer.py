# SPDX-License-Identifier: GPL-2.0-or-later
"""Group commit: what is waiting to be written goes to disk as one transaction, and is answered after it.

While one batch is in the writer's thread, further operations collect for the next: many sessions, one sync.

Invariants: one thread at a time uses the connection, one batch at a time is under way, operations run in the order
they were submitted, and nothing is answered before its commit. An operation that refuses (`REFUSALS`) must do so before
it writes; then the others of its batch need no savepoints.
Not here: what is written (`leases`, `sessions`, `accounts`), the thread (`app`).
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.python.failure import Failure

from ddtb6.broker.ports import (
    AccountExists,
    HoldsOther,
    NoSuchAccount,
    PoolExhausted,
    StoreBusy,
    StoreError,
    UnknownPool,
)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
"""Reads and writes inside a transaction that is not its own."""

REFUSALS = (PoolExhausted, UnknownPool, HoldsOther, AccountExists, NoSuchAccount)

LONGEST_QUEUE = 100_000
"""Operations that may wait; a storm of twice the clients this is built for."""
LARGEST_BATCH = 500
"""Operations in one transaction: far past the point where the sync weighs nothing, and still short."""


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

        `rolled_back` is called in the thread when operations were undone, to drop what they remember of it.
        """
        self._connection = connection
        self._in_thread = in_thread
        self._later = later
        self._rolled_back = rolled_back
        self._waiting: deque[tuple[Operation[Any], Deferred[Any]]] = deque()
        self._under_way = False
        self._sending = False
        self._due = False
        self._closed: Deferred[None] | None = None

    def submit(self, operation: Operation[T]) -> Deferred[T]:
        """Fires with what `operation` returned once that is on stable storage.

        Fails with a refusal of the operation, with StoreBusy, or with StoreError when the database would not take it.
        """
        if self._closed is not None:
            return fail(StoreError("The store is closed."))
        if len(self._waiting) >= LONGEST_QUEUE:
            return fail(StoreBusy(f"{LONGEST_QUEUE} writes are waiting for the disk."))
        answer: Deferred[T] = Deferred()
        self._waiting.append((operation, answer))
        if not self._under_way and not self._due:
            self._due = True
            if self._later is None:
                self._send()
            else:
                self._later(self._send)
        return answer

    def close(self) -> Deferred[None]:
        """Write what is waiting, then close the connection. Fires when that is done."""
        answer: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = answer
            if not self._under_way:
                self._send()
        else:
            self._closed.chainDeferred(answer)
        return answer

    def _send(self) -> None:
        """Send batches until one is under way or nothing waits; a loop, because `in_thread` may run them at once."""
        self._due = False
        if self._sending:
            return
        self._sending = True
        while self._waiting and not self._under_way:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), LARGEST_BATCH))]
            self._under_way = True
            outcomes = maybeDeferred(self._in_thread, partial(self._write, [operation for operation, _ in batch]))
            outcomes.addBoth(self._answer, [answer for _, answer in batch])
        self._sending = False
        if self._closed is not None and not self._under_way:
            self._under_way = True
            maybeDeferred(self._in_thread, self._connection.close).chainDeferred(self._closed)

    def _answer(self, outcomes: Sequence[Any] | Failure, answers: Sequence[Deferred[Any]]) -> None:
        """`_under_way` holds until the last is answered, so that what the answers submit becomes one batch."""
        if isinstance(outcomes, Failure):
            outcomes = [Failure(StoreError(f"The writer's thread failed: {outcomes.getErrorMessage()}"))] * len(answers)
        for answer, outcome in zip(answers, outcomes, strict=True):
            if isinstance(outcome, Failure):
                answer.errback(outcome)
            else:
                answer.callback(outcome)
        self._under_way = False
        self._send()

    def _write(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """In the thread: one result or Failure for each operation, all of them committed or harmless."""
        try:
            return self._transact(operations)
        except sqlite3.OperationalError as error:
            # Disk full, I/O error, locked by another process: none was written; the next batch may fare better.
            return [Failure(StoreError(f"The database did not take a write: {error}"))] * len(operations)
        except Exception:
            if len(operations) == 1:
                return [Failure()]
            # One of them has a fault. The others must not suffer from it.
            return [self._write([each])[0] for each in operations]

    def _transact(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [self._perform(each) for each in operations]
            connection.execute("COMMIT")
        except BaseException:
            self._rolled_back()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return outcomes

    def _perform(self, operation: Operation[Any]) -> Any:
        changes = self._connection.total_changes
        try:
            return operation(self._connection)
        except REFUSALS as refusal:
            if self._connection.total_changes != changes:
                raise AssertionError("an operation wrote before it refused") from refusal
            return Failure(refusal)
