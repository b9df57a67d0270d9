# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivers the journal of accounting to RADIUS servers: at least once, in order for each session, for ever if need be.

Source: RFC 2866 (a record is delivered when its Accounting-Response has come).
Invariants: a record leaves the journal after a server acknowledged it, not before; during an outage one request at a
time is under way, and a line is logged every `REMINDER` seconds.
Not here: what a record says (`radius.records`), whose turn it is and what is held in memory (`radius.backlog`), which
server is asked and how often (`radius.exchange`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ddtb6.broker.journal import Journal, Record, RecordKind
from ddtb6.broker.ports import Clock, StoreError
from ddtb6.radius.attributes import Unencodable
from ddtb6.radius.backlog import Backlog
from ddtb6.radius.exchange import NoAnswer, RadiusClient
from ddtb6.radius.nas import Nas
from ddtb6.radius.packets import Code, Reply
from ddtb6.radius.records import STATUS, record_attributes

MOST_IN_FLIGHT = 100
"""Requests under way at once; half of what FreeRADIUS' socket holds."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0
"""Seconds between two trials during an outage; doubles."""
ROUND = 5.0
"""Seconds between two looks at what rests and at how much waits."""
REMINDER = 600.0
DRAIN = 3.0
"""Seconds that a stop waits for what can still be delivered."""


@dataclass(frozen=True, slots=True)
class AccountingState:
    """How delivery does, for people."""

    waiting: int
    """Records not acknowledged; a few seconds old, as is `oldest`."""
    delivered: int
    """Records acknowledged since start."""
    in_flight: int
    oldest: float | None
    """Epoch seconds of the oldest record's event; None: none waits."""
    outage_since: float | None
    """Epoch seconds since which no server has acknowledged anything; None: all is well."""
    resting: int
    """Sessions whose records alone are not acknowledged."""
    last_error: str


class AccountingDeliverer:
    """One for the process. Order of stopping: the broker, this, its client, the store."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        clock: Clock,
        journal: Journal,
        client: RadiusClient,
        nas: Nas,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Starts nothing. `jitter` gives numbers from 0 to 1."""
        self._reactor, self._clock, self._journal, self._client, self._nas = reactor, clock, journal, client, nas
        self._jitter = jitter
        self._backlog = Backlog(journal, jitter)
        self._in_flight: set[Deferred[Any]] = set()
        self._sending = False
        self._stopped = True
        self._delivered = 0
        self._waiting, self._last_error = 0, ""
        self._oldest: float | None = None
        self._outage: float | None = None
        """Epoch second of its beginning."""
        self._outage_begun = self._retry_at = self._reminder_at = self._round_at = 0.0
        self._trials = 0
        self._ticking: Any = None
        self._retrying: Any = None
        self._drained: Deferred[None] | None = None

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self, resumed: int) -> None:
        """To be called after the broker has started and before anybody can log in, with the number of live sessions.

        An Accounting-On says that there are none, so it is written only where that is so. Raises StoreError.
        """
        if not resumed:
            await self._journal.append(RecordKind.ON)
        self._stopped = False
        self._tick()

    def poke(self) -> None:
        """Something was written into the journal; without it, that is noticed within a second."""
        self._backlog.look_again()
        self._go_on()

    async def stop(self, staying: int) -> None:
        """Deliver what can be within a few seconds; the rest stays in the journal.

        `staying` is the number of sessions that live on; without any, an Accounting-Off is written. Raises StoreError.
        """
        if self._stopped:
            return
        if not staying:
            await self._journal.append(RecordKind.OFF)
        drained = self._drained = Deferred()
        limit = self._reactor.callLater(DRAIN, self._end_draining)
        self.poke()
        await drained
        self._stopped = True
        for timer in (limit, self._ticking, self._retrying):
            _stop_timer(timer)
        for request in list(self._in_flight):
            request.cancel()
        await self._backlog.write_last()

    def state(self) -> AccountingState:
        """A snapshot."""
        return AccountingState(
            waiting=self._waiting,
            delivered=self._delivered,
            in_flight=len(self._in_flight),
            oldest=self._oldest,
            outage_since=self._outage,
            resting=self._backlog.resting,
            last_error=self._last_error,
        )

    def _tick(self) -> None:
        """Once a second."""
        self._ticking = self._reactor.callLater(1.0, self._tick)
        now = self._clock.monotonic()
        if now >= self._round_at:
            self._round_at = now + ROUND
            self._backlog.wake(now)
            self._spawn(self._look())
        self._spawn(self._write())
        self.poke()

    async def _look(self) -> None:
        """How much waits; and the reminder."""
        self._waiting = await self._journal.backlog()
        oldest = await self._journal.waiting(0, 1) if self._waiting else ()
        self._oldest = oldest[0].at if oldest else None
        now = self._clock.monotonic()
        if now < self._reminder_at or not (self._outage is not None or self._backlog.resting):
            return
        self._reminder_at = now + REMINDER
        if self._outage is not None:
            self.log.warn(
                "accounting has not been acknowledged for {minutes:.0f} min, {waiting} records wait: {why}",
                minutes=(now - self._outage_begun) / 60,
                waiting=self._waiting,
                why=self._last_error,
            )
        else:
            self.log.warn(
                "accounting of {resting} sessions is not acknowledged while that of others is, {waiting} records wait: "
                "the log of the RADIUS server should say why",
                resting=self._backlog.resting,
                waiting=self._waiting,
            )

    async def _write(self) -> None:
        await self._backlog.write()
        if self._drained is not None:
            self._go_on()

    async def _read(self) -> None:
        await self._backlog.read()
        self._go_on()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        Deferred.fromCoroutine(work).addErrback(self._work_failed)

    def _work_failed(self, failure: Failure) -> None:
        if failure.check(StoreError) is None:
            self.log.failure("delivery of accounting", failure)
        self._last_error = failure.getErrorMessage()

    # --- sending --------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Send what may be sent, read what there is room for."""
        if self._sending or self._stopped:
            return
        self._sending = True  # What ends at once comes here again.
        while self._may_send() and (record := self._backlog.next()) is not None:
            self._send(record)
        self._sending = False
        if self._backlog.wants_more:
            self._spawn(self._read())
        elif not self._in_flight and (self._backlog.over or self._outage is not None):
            self._end_draining()

    def _may_send(self) -> bool:
        if self._outage is None:
            return len(self._in_flight) < MOST_IN_FLIGHT
        return not self._in_flight and self._clock.monotonic() >= self._retry_at

    def _send(self, record: Record) -> None:
        self._trials += 1
        delivered = self._delivered
        # Sent again to the same server, a record keeps its octets, so that the server knows it; for another server, and
        # after a failure, it is made anew with another Acct-Delay-Time (RFC 2866 section 5.2).
        exchange = self._client.exchange(
            Code.ACCOUNTING_REQUEST, lambda: record_attributes(record, self._nas, self._clock.epoch())
        )
        request = Deferred.fromCoroutine(exchange)
        self._in_flight.add(request)

        def ended(result: Reply | Failure) -> None:
            self._in_flight.discard(request)
            if not isinstance(result, Failure):
                self._acknowledged(record)
            elif result.check(CancelledError) is None:
                self._failed(record, result, others=self._delivered > delivered)
            self._go_on()

        request.addBoth(ended)

    def _acknowledged(self, record: Record) -> None:
        self._delivered += 1
        if self._outage is not None:
            self._outage, self._retry_at = None, 0.0
            self.log.info(
                "accounting is acknowledged again after {seconds:.0f} s; {waiting} records wait",
                seconds=self._clock.monotonic() - self._outage_begun,
                waiting=self._waiting,
            )
        self._backlog.delivered(record)
        self._spawn(self._write())

    def _failed(self, record: Record, failure: Failure, *, others: bool) -> None:
        """It was not acknowledged. `others`: but some other record was, meanwhile."""
        self._last_error = why = failure.getErrorMessage()
        if failure.check(Unencodable) is not None:
            self.log.error(
                "accounting record {number} cannot be sent, and is dropped: {why}", number=record.number, why=why
            )
            self._backlog.done(record)
            return
        if failure.check(NoAnswer) is None:
            self.log.failure("accounting record {number}", failure, number=record.number)
        if others and record.session is not None:
            self._backlog.rest(record, self._clock.monotonic())
            return
        if not self._backlog.put_back(record):
            self.log.warn("accounting: {kind} was not acknowledged, and is left out", kind=STATUS[record.kind])
            return
        self._trouble(why)

    def _trouble(self, why: str) -> None:
        """Nobody acknowledges anything: wait before the next trial."""
        now = self._clock.monotonic()
        if self._outage is None:
            self._outage, self._outage_begun, self._trials = self._clock.epoch(), now, 0
            self._reminder_at = now + REMINDER
            self.log.warn("accounting is not acknowledged ({why}); records are kept and sent later", why=why)
        if now < self._retry_at:
            return  # One of many that were under way when it began.
        wait = min(FIRST_WAIT * 2 ** min(self._trials, 20), LONGEST_WAIT) * (0.75 + 0.5 * self._jitter())
        self._retry_at = now + wait
        _stop_timer(self._retrying)
        self._retrying = self._reactor.callLater(wait, self._go_on)

    def _end_draining(self) -> None:
        if self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)


def _stop_timer(timer: Any) -> None:
    if timer is not None and timer.active():
        timer.cancel()
