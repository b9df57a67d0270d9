# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits in the journal, a little of it in memory, and whose turn it is.

Invariants: of each session one record is out at a time, and always its oldest; an On or Off is out after all that was
written before it and before all that was written after it, but for sessions that rest and after `PATIENT_TRIALS`; no
more than `MEMORY` records are held, and of a session that rests none is.
Not here: sending (`radius.accounting`), where records are kept (`store`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from ddtb6.broker.journal import Journal, Record
from ddtb6.broker.ports import StoreError

MEMORY, PAGE = 1000, 200
"""Records held at most, and read from the journal at once: a page takes some 4 ms."""
MOST_UNWRITTEN = 5000
"""Delivered records whose removal the store has not taken; with more, nothing new is given out."""
FIRST_REST, LONGEST_REST = 30.0, 600.0
"""Seconds for which a session rests whose record alone is not acknowledged; doubles."""
SUSPECTS_HELD, SUSPECTS_OUT = 200, 20
"""Sessions held, and records out, of those that have failed: they leave room for the others."""
PATIENT_TRIALS = 4
"""Trials of an On or Off before others are tried, too: there are servers that never answer these."""

_BROKER = 0
"""Stands for the session of records that are about none."""


class Backlog:
    """The undelivered part of the journal, in the order in which it may be delivered."""

    def __init__(self, journal: Journal, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers from 0 to 1."""
        self._journal, self._jitter = journal, jitter
        self._queues: dict[int, deque[Record]] = {}
        """By session: what was read and not delivered, in order. What there is of a session is here, or it rests."""
        self._ready: deque[int] = deque()
        """Sessions whose first record may be given out."""
        self._suspects: deque[int] = deque()
        """The same, of those whose first record has failed."""
        self._suspects_out = 0
        self._out: set[int] = set()
        self._held = 0
        self._known: set[int] = set()
        """Numbers of what is held, and of what is delivered and not yet removed from the journal."""
        self._resting: dict[int, tuple[float, int]] = {}
        """By session: monotonic second of its end, and number of the record it begins again with."""
        self._failures: dict[int, int] = {}
        """By session: how often its first record has failed."""
        self._barrier: Record | None = None
        """The On or Off that has its turn when all before it is delivered."""
        self._barrier_failures = self._turn = 0
        self._overtaken = False
        """Something later than the barrier was delivered: it gets one more trial."""
        self._cursor = 0
        self._rewound: int | None = None
        self._reading = self._writing = False
        self._read_all = False
        self._unwritten: list[int] = []

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def resting(self) -> int:
        """Sessions that rest."""
        return len(self._resting)

    @property
    def over(self) -> bool:
        """Nothing is left but what rests."""
        left = self._queues or self._barrier or self._unwritten or self._reading or not self._read_all
        return not left

    @property
    def wants_more(self) -> bool:
        """`read` would find something, perhaps, and there is room for it."""
        barred = self._barrier is not None and self._barrier_failures < PATIENT_TRIALS
        return not (self._reading or self._read_all or barred) and self._held <= MEMORY - PAGE

    def look_again(self) -> None:
        """There may be more in the journal than when it was last read."""
        self._read_all = False

    async def read(self) -> None:
        """Take a page of the journal. Raises StoreError."""
        self._reading = True
        try:
            page = await self._journal.waiting(self._cursor, PAGE)
        except StoreError:
            self._read_all = True  # Until somebody asks to look again.
            raise
        finally:
            self._reading = False
        if self._rewound is not None:
            # What began or ended a rest meanwhile may lack its first record in this page.
            self._cursor, self._rewound = min(self._cursor, self._rewound), None
            return
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

    def _take(self, record: Record, session: int) -> None:
        queue = self._queues.get(session)
        if queue is None:
            if not self._line_up(session, record.number):
                return
            queue = self._queues[session] = deque()
        queue.append(record)
        self._known.add(record.number)
        self._held += 1

    def _line_up(self, session: int, number: int) -> bool:
        """Give it its turn; False: it has failed, and there are enough of these here."""
        if session not in self._failures:
            self._ready.append(session)
        elif len(self._suspects) < SUSPECTS_HELD:
            self._suspects.append(session)
        else:
            self._resting[session] = (0.0, number)
            return False
        return True

    def _raise_barrier(self, record: Record) -> None:
        """Nothing after it is read until it is delivered, or has failed a few times.

        One before it that is still there has failed, and said the same.
        """
        if self._barrier is not None:
            self.done(self._barrier)
        self._known.add(record.number)
        self._barrier, self._barrier_failures, self._overtaken = record, 0, False

    def _rewind(self, number: int) -> None:
        """Read again from the record with that number on; what is known is passed over."""
        self._read_all = False
        if self._reading:
            self._rewound = number - 1 if self._rewound is None else min(self._rewound, number - 1)
        else:
            self._cursor = min(self._cursor, number - 1)

    # --- whose turn it is -----------------------------------------------------------------------------------------

    def next(self) -> Record | None:
        """The next to be sent; it is out until `done`, `put_back` or `rest`."""
        if len(self._unwritten) >= MOST_UNWRITTEN:
            return None
        self._turn += 1
        if self._barrier is not None and _BROKER not in self._out:
            # Its own turn; or, once later ones are tried too, most turns, so that it probably stays the first.
            alone = not self._queues
            if alone or self._overtaken or (self._barrier_failures >= PATIENT_TRIALS and self._turn % 4):
                self._out.add(_BROKER)
                return self._barrier
        if self._suspects and (not self._ready or (self._suspects_out < SUSPECTS_OUT and self._turn % 2)):
            session = self._suspects.popleft()
        elif self._ready:
            session = self._ready.popleft()
        else:
            return None
        self._suspects_out += session in self._failures
        self._out.add(session)
        return self._queues[session][0]

    def delivered(self, record: Record) -> None:
        """A server has acknowledged it."""
        if record.session is not None and self._barrier is not None and record.number > self._barrier.number:
            self._overtaken = True
        self.done(record)

    def done(self, record: Record) -> None:
        """It is done with, delivered or not; the next one of its session may go."""
        if record.session is None:
            if self._barrier is record:
                self._unwritten.append(record.number)
                self._out.discard(_BROKER)
                self._barrier = None
            return
        self._unwritten.append(record.number)
        session = record.session.id
        self._in_again(session)
        self._failures.pop(session, None)
        queue = self._queues[session]
        queue.popleft()
        self._held -= 1
        if queue:
            self._ready.append(session)
        else:
            del self._queues[session]

    def put_back(self, record: Record) -> bool:
        """It was not acknowledged; others have their turn before it. False: it has come too late, and is done with."""
        if record.session is not None:
            session = record.session.id
            self._in_again(session)
            self._failures[session] = self._failures.get(session, 0) + 1
            if not self._line_up(session, record.number):
                self._drop(session)
            return True
        if self._overtaken or self._barrier is not record:
            self.done(record)
            return False
        self._out.discard(_BROKER)
        self._barrier_failures += 1
        return True

    def rest(self, record: Record, now: float) -> None:
        """It alone is not acknowledged: its session goes from memory, and is tried again later."""
        assert record.session is not None
        session = record.session.id
        self._in_again(session)
        failures = self._failures[session] = self._failures.get(session, 0) + 1
        pause = min(FIRST_REST * 2 ** min(failures - 1, 20), LONGEST_REST) * (0.75 + 0.5 * self._jitter())
        self._resting[session] = (now + pause, record.number)
        self._drop(session)

    def _in_again(self, session: int) -> None:
        self._out.discard(session)
        self._suspects_out -= session in self._failures

    def _drop(self, session: int) -> None:
        """From memory; the journal still has it."""
        queue = self._queues.pop(session)
        self._held -= len(queue)
        self._known.difference_update(each.number for each in queue)

    def wake(self, now: float) -> None:
        """Have another look at what has rested enough, as far as there is room for more than a few."""
        room = SUSPECTS_HELD - len(self._suspects)
        if room < SUSPECTS_HELD // 2:
            return  # Each time, the journal is read again from the oldest of them on.
        due = (session for session, (until, _) in self._resting.items() if until <= now)
        for session in list(itertools.islice(due, room)):
            self._rewind(self._resting.pop(session)[1])

    # --- writing --------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Remove what is done with from the journal; what comes meanwhile goes together next. Raises StoreError."""
        if self._writing:
            return
        self._writing = True
        try:
            while self._unwritten:
                numbers = self._unwritten[:]
                await self._journal.acknowledge(numbers)
                del self._unwritten[: len(numbers)]
                self._known.difference_update(numbers)
        finally:
            self._writing = False

    async def write_last(self) -> None:
        """As `write`, which may be under way. Raises StoreError."""
        if self._unwritten:
            await self._journal.acknowledge(self._unwritten[:])
