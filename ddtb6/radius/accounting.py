# SPDX-License-Identifier: GPL-2.0-or-later
"""Delivers the journal of accounting to RADIUS servers: at least once, in order for each session, for ever if need be.

Source: RFC 2866 (a record is delivered when its Accounting-Response has come; NAS retry until then, across servers).
Invariants: the next record of a session goes out only after the one before was acknowledged; an Accounting-On or -Off
goes out after all that was written before it and before all that was written after it; what waits in the journal takes
no memory beyond `MEMORY` records; during an outage one request at a time is under way and a line is logged every
`REMINDER` seconds.
Not here: what a record says (`radius.records`), which server is asked and how often (`radius.exchange`), where records
are kept (`store`).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ddtb6.broker.journal import Journal, Record, RecordKind
from ddtb6.broker.ports import Clock, StoreError
from ddtb6.radius.attributes import Unencodable
from ddtb6.radius.exchange import NoAnswer, RadiusClient
from ddtb6.radius.nas import Nas
from ddtb6.radius.packets import Code, Reply
from ddtb6.radius.records import STATUS, record_attributes

MOST_IN_FLIGHT = 100
"""Requests under way at once; half of what FreeRADIUS' socket holds."""
MEMORY, PAGE = 1000, 200
"""Records held at most, and read from the journal at once: a page takes some 4 ms."""
MOST_UNWRITTEN = 5000
"""Acknowledged records whose removal the store has not taken; with more, nothing new is sent."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 15.0
"""Seconds between two trials during an outage; doubles."""
FIRST_REST, LONGEST_REST = 5.0, 600.0
"""Seconds for which a session rests whose record alone is not acknowledged; doubles."""
ROUND = 5.0
"""Seconds between two looks at what rests and at how much waits."""
REMINDER = 600.0
DRAIN = 3.0
"""Seconds that a stop waits for what can still be delivered."""
PATIENT_TRIALS = 4
"""Trials of an On or Off before others are tried, too: there are servers that never answer these."""

_BROKER = 0
"""Stands for the session of records that are about none."""


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
        self._queues: dict[int, deque[Record]] = {}
        """By session: what was read and not acknowledged, in order. Those of one session are here or it rests."""
        self._ready: deque[int] = deque()
        """Sessions whose first record may be sent."""
        self._flying: dict[int, Deferred[Any]] = {}
        self._known: set[int] = set()
        """Numbers of what is in the queues, and of what is acknowledged and not yet removed from the journal."""
        self._held = 0
        """Records in the queues."""
        self._resting: dict[int, tuple[float, int]] = {}
        """By session: monotonic second of its end, and number of the record it begins again with."""
        self._failures: dict[int, int] = {}
        self._barrier: Record | None = None
        """The On or Off that has its turn when all before it is delivered."""
        self._barrier_failures = 0
        self._overtaken = False
        """Something later than the barrier was acknowledged: it gets one more trial."""
        self._cursor = 0
        self._rewound: int | None = None
        self._reading = self._flushing = self._pumping = False
        self._read_all = True
        self._unwritten: list[int] = []
        self._delivered = 0
        self._outage: float | None = None
        """Epoch second of its beginning."""
        self._outage_begun = self._retry_at = self._reminder_at = 0.0
        self._trials = 0
        self._waiting, self._oldest, self._last_error = 0, None, ""  # type: int, float | None, str
        self._ticking: Any = None
        self._retrying: Any = None
        self._round_at = 0.0
        self._stopped = True
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
        self._read_all = False
        self._pump()

    async def stop(self, staying: int) -> None:
        """Deliver what can be within a few seconds; the rest stays in the journal.

        `staying` is the number of sessions that live on; without any, an Accounting-Off is written. Raises StoreError.
        """
        if self._stopped:
            return
        if not staying:
            await self._journal.append(RecordKind.OFF)
        drained = self._drained = Deferred()
        limit = self._reactor.callLater(DRAIN, self._give_up_draining)
        self.poke()
        await drained
        self._stopped = True
        for timer in (limit, self._ticking, self._retrying):
            self._stop_timer(timer)
        for request in list(self._flying.values()):
            request.cancel()
        await self._flush()

    def state(self) -> AccountingState:
        """A snapshot."""
        return AccountingState(
            waiting=self._waiting,
            delivered=self._delivered,
            in_flight=len(self._flying),
            oldest=self._oldest,
            outage_since=self._outage,
            resting=len(self._resting),
            last_error=self._last_error,
        )

    def _tick(self) -> None:
        """Once a second."""
        self._ticking = self._reactor.callLater(1.0, self._tick)
        now = self._clock.monotonic()
        if now >= self._round_at:
            self._round_at = now + ROUND
            self._wake_rested(now)
            self._spawn(self._look())
        if self._unwritten:
            self._spawn(self._flush())
        self.poke()

    async def _look(self) -> None:
        """How much waits; and the reminder."""
        self._waiting = await self._journal.backlog()
        oldest = await self._journal.waiting(0, 1) if self._waiting else ()
        self._oldest = oldest[0].at if oldest else None
        now = self._clock.monotonic()
        if now >= self._reminder_at and (self._outage is not None or self._resting):
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
                    "accounting of {resting} sessions is not acknowledged, while that of others is, {waiting} records "
                    "wait: see what the server does with them",
                    resting=len(self._resting),
                    waiting=self._waiting,
                )

    def _spawn(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(self._store_failed)

    def _store_failed(self, failure: Failure) -> None:
        if failure.check(StoreError) is None:
            self.log.failure("delivery of accounting", failure)
        self._last_error = failure.getErrorMessage()

    # --- reading --------------------------------------------------------------------------------------------------

    def _wants_more(self) -> bool:
        barred = self._barrier is not None and self._barrier_failures < PATIENT_TRIALS
        return not (self._reading or self._read_all or barred) and self._held <= MEMORY - PAGE

    async def _read(self) -> None:
        self._reading = True
        try:
            page = await self._journal.waiting(self._cursor, PAGE)
        except StoreError:
            self._read_all = True  # The next tick tries again.
            raise
        finally:
            self._reading = False
        if self._rewound is not None:
            # What began to rest or ended its rest meanwhile may lack its first record in this page.
            self._cursor, self._rewound = min(self._cursor, self._rewound), None
        else:
            self._read_all = len(page) < PAGE
            for record in page:
                self._cursor = record.number
                if record.number in self._known:
                    continue
                if record.session is None:
                    self._raise_barrier(record)
                    self._read_all = False
                    break
                if record.session.id not in self._resting:
                    self._take(record, record.session.id)
        self._pump()

    def _raise_barrier(self, record: Record) -> None:
        """Nothing after it is read until it is acknowledged, or has failed a few times.

        One before it that is still there has failed, and said the same.
        """
        if self._barrier is not None:
            self._leave_out(self._barrier)
        self._known.add(record.number)
        self._barrier, self._barrier_failures, self._overtaken = record, 0, False

    def _take(self, record: Record, session: int) -> None:
        self._known.add(record.number)
        self._held += 1
        queue = self._queues.get(session)
        if queue is None:
            self._queues[session] = deque([record])
            self._ready.append(session)
        else:
            queue.append(record)

    def _rewind(self, number: int) -> None:
        """Read again from the record with that number on; what is known is passed over."""
        self._read_all = False
        if self._reading:
            self._rewound = number - 1 if self._rewound is None else min(self._rewound, number - 1)
        else:
            self._cursor = min(self._cursor, number - 1)

    # --- sending --------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what may be sent, read what there is room for."""
        if self._pumping or self._stopped:
            return
        self._pumping = True  # What fails at once comes here again.
        most = 1 if self._outage is not None else MOST_IN_FLIGHT
        while len(self._flying) < most and len(self._unwritten) < MOST_UNWRITTEN and self._may_try():
            session = self._next()
            if session is None:
                break
            self._launch(session)
            most = 1 if self._outage is not None else MOST_IN_FLIGHT
        self._pumping = False
        if self._wants_more():
            self._spawn(self._read())
        elif self._drained is not None and self._idle():
            self._give_up_draining()

    def _may_try(self) -> bool:
        return self._outage is None or self._clock.monotonic() >= self._retry_at

    def _next(self) -> int | None:
        """Whose first record is next."""
        if self._barrier is not None and _BROKER not in self._flying:
            # Its own turn; or, once later ones are tried too, most trials, so that it probably stays the first.
            alone = not self._queues and not self._flying
            if alone or self._overtaken or (self._barrier_failures >= PATIENT_TRIALS and self._trials % 4):
                return _BROKER
        return self._ready.popleft() if self._ready else None

    def _launch(self, session: int) -> None:
        record = self._barrier if session == _BROKER else self._queues[session][0]
        assert record is not None
        self._trials += self._outage is not None
        acknowledged = self._delivered
        request = Deferred.fromCoroutine(
            self._client.exchange(
                Code.ACCOUNTING_REQUEST, lambda: record_attributes(record, self._nas, self._clock.epoch())
            )
        )
        self._flying[session] = request

        def ended(result: Reply | Failure) -> None:
            del self._flying[session]
            if not isinstance(result, Failure):
                self._acknowledged(session, record)
            elif result.check(CancelledError) is None:
                self._failed(session, record, result, others=self._delivered > acknowledged)
            self._pump()

        request.addBoth(ended)

    # --- what came of it ------------------------------------------------------------------------------------------

    def _acknowledged(self, session: int, record: Record) -> None:
        self._delivered += 1
        if self._outage is not None:
            self._outage_over()
        if session != _BROKER and self._barrier is not None and record.number > self._barrier.number:
            self._overtaken = True
        self._forget(session, record)

    def _forget(self, session: int, record: Record) -> None:
        """It is done with; the next one of the session may go."""
        self._unwritten.append(record.number)
        if not self._flushing:
            self._spawn(self._flush())
        self._failures.pop(session, None)
        if session == _BROKER:
            if self._barrier is record:
                self._barrier = None
            return
        queue = self._queues[session]
        queue.popleft()
        self._held -= 1
        if queue:
            self._ready.append(session)
        else:
            del self._queues[session]

    def _failed(self, session: int, record: Record, failure: Failure, *, others: bool) -> None:
        """It was not acknowledged. `others`: but some other record was, meanwhile."""
        self._last_error = why = failure.getErrorMessage()
        if failure.check(Unencodable) is not None:
            self.log.error(
                "accounting record {number} (session {session}) cannot be sent, and is dropped: {why}",
                number=record.number,
                session=session,
                why=why,
            )
            self._forget(session, record)
            return
        if failure.check(NoAnswer) is None:
            self.log.failure("accounting record {number}", failure, number=record.number)
        if session == _BROKER:
            if self._barrier is not record:
                return
            self._barrier_failures += 1
            if self._overtaken:
                self._leave_out(record)
                return
        elif others:
            self._rest(session, record)
            return
        else:
            self._ready.append(session)
        self._trouble(why)

    def _leave_out(self, record: Record) -> None:
        """An On or Off that was not acknowledged, and must not come after what has followed."""
        self.log.warn("accounting: {kind} is not acknowledged, and is left out", kind=STATUS[record.kind])
        self._forget(_BROKER, record)

    def _rest(self, session: int, record: Record) -> None:
        """Let others go first; from memory it goes altogether."""
        failures = self._failures[session] = self._failures.get(session, 0) + 1
        pause = min(FIRST_REST * 2 ** min(failures - 1, 20), LONGEST_REST) * (0.75 + 0.5 * self._jitter())
        self._resting[session] = (self._clock.monotonic() + pause, record.number)
        queue = self._queues.pop(session)
        self._held -= len(queue)
        self._known.difference_update(each.number for each in queue)

    def _wake_rested(self, now: float) -> None:
        if self._outage is not None:
            return
        for session in [each for each, (until, _) in self._resting.items() if until <= now]:
            self._rewind(self._resting.pop(session)[1])

    def _trouble(self, why: str) -> None:
        """Nobody acknowledges anything: wait before the next trial."""
        now = self._clock.monotonic()
        if self._outage is None:
            self._outage, self._outage_begun, self._trials = self._clock.epoch(), now, 0
            self._reminder_at = now + REMINDER
            self.log.warn("accounting is not acknowledged ({why}); records are kept and sent later", why=why)
        if now < self._retry_at or self._stopped:
            return  # One of many that were under way when it began.
        wait = min(FIRST_WAIT * 2 ** min(self._trials, 20), LONGEST_WAIT) * (0.75 + 0.5 * self._jitter())
        self._retry_at = now + wait
        self._stop_timer(self._retrying)
        self._retrying = self._reactor.callLater(wait, self._pump)
        if self._drained is not None:
            self._give_up_draining()

    def _outage_over(self) -> None:
        self._outage = None
        self._retry_at = 0.0
        self.log.info(
            "accounting is acknowledged again after {seconds:.0f} s; {waiting} records wait",
            seconds=self._clock.monotonic() - self._outage_begun,
            waiting=self._waiting,
        )

    async def _flush(self) -> None:
        """Remove acknowledged records from the journal; those that come meanwhile go together in the next write."""
        if self._flushing:
            return
        self._flushing = True
        try:
            while self._unwritten:
                numbers = self._unwritten[:]
                await self._journal.acknowledge(numbers)
                del self._unwritten[: len(numbers)]
                self._known.difference_update(numbers)
        finally:
            self._flushing = False
        if self._drained is not None:
            self._pump()

    # --- stopping -------------------------------------------------------------------------------------------------

    def _idle(self) -> bool:
        """Nothing is left that could be delivered now."""
        busy = self._flying or self._queues or self._barrier or self._unwritten or self._reading or not self._read_all
        return not busy or (self._outage is not None and not self._flying)

    @staticmethod
    def _stop_timer(timer: Any) -> None:
        if timer is not None and timer.active():
            timer.cancel()

    def _give_up_draining(self) -> None:
        if self._drained is not None:
            drained, self._drained = self._drained, None
            drained.callback(None)
