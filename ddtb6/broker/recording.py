# SPDX-License-Identifier: GPL-2.0-or-later
"""Records the past of the broker and of each account's tunnel, in a bounded number of points.

What was carried is told once a minute, when the tunnels' counters are read anyway, and as what came since the last
time: a tunnel whose counters begin anew, and a daemon that does, leave no dent and no spike. It is spread evenly over
the time since then, which a clock that was set does not change. What a data plane carried while no daemon ran is
spread over that time.
Invariants: of the broker, `TIERS` points; of an account, a ring (`broker.ring`) and the points of `HELD` seconds in
memory; guests have none, or strangers would fill the disk. What a crash loses of these is lost: it is a plot, not an
account.
Not here: what is read (`tunnels`), what asks tunnels how fast they are (`probes`), drawing (`web.plot`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import add

from ddtb6.broker import ring
from ddtb6.broker.history import DAY, FINE, HOUR, WEEK, Cell, History, PastStore, Point, Series, Span, TunnelHistory
from ddtb6.broker.ports import Clock, Session
from ddtb6.broker.views import Activity
from ddtb6.tunnel.reasons import Refusal
from ddtb6.tunnel.spec import Counters

MINUTE, TEN_MINUTES = 60, 600
TIERS: Mapping[int, int] = {MINUTE: DAY, TEN_MINUTES: WEEK}
"""For how many seconds spans of that many seconds are kept."""
HELD = 1800
"""Seconds for which points of tunnels collect before they are written, so that a page of the disk is written for
several of them. Tunnels take turns."""
_TURNS = HELD // MINUTE
_FINE_AT_ONCE = HELD // FINE
"""Spans of a tunnel that a single count is spread over, at most."""


class _Pending:
    """What is not in the ring yet: points that are over, and the present one."""

    __slots__ = ("answered", "done", "least", "most", "number", "octets_in", "octets_out", "sent", "total")

    def __init__(self, number: int) -> None:
        self.done: tuple[Cell, ...] = ()
        self._begin(number)

    def _begin(self, number: int) -> None:
        self.number = number
        self.octets_in = self.octets_out = self.least = self.total = self.most = 0.0
        self.sent = self.answered = 0

    def at(self, number: int) -> _Pending:
        """Itself, with that span as its present one."""
        if number != self.number:
            self.done = self.cells()[-_FINE_AT_ONCE - 1 :]
            self._begin(number)
        return self

    def cells(self) -> tuple[Cell, ...]:
        cell = Cell(
            *(self.number, self.octets_in, self.octets_out, self.least, self.total, self.most),
            *(self.sent, self.answered),
        )
        return (*self.done, cell)


class Recording:
    """`history.Meter`, and what is made of it."""

    def __init__(self, clock: Clock, store: PastStore, activity: Callable[[], Activity], *, outlives: bool) -> None:
        """`outlives`: the data plane carries and counts while no daemon runs."""
        self._clock = clock
        self._store = store
        self._activity = activity
        self._outlives = outlives
        self._tiers: dict[int, dict[int, Span]] = {step: {} for step in TIERS}
        self._unwritten: dict[int, set[int]] = {step: set() for step in TIERS}
        self._since = clock.monotonic()
        """Monotonic second from which on it has not been spread yet; before the start of this process, too."""
        self._until = clock.epoch()
        self._amounts = [0, 0, 0, 0]
        """Octets in and out, packets in and out, since then."""
        self._before = [0, 0, 0, 0]
        """The same from the start of this process to then."""
        self._refused: dict[Refusal, int] = {}
        """Packets since the start of this process."""
        self._moved: dict[str, tuple[int, int]] = {}
        """The octets by owner."""
        self._counted = (0, 0)
        """Log-ins and refusals up to then."""
        self._pending: tuple[dict[str, _Pending], ...] = tuple({} for _ in range(_TURNS))
        self._turn = 0

    async def start(self) -> None:
        """Read what is there. Raises StoreError."""
        recorded = await self._store.past()
        now = self._clock.epoch()
        for step, spans in recorded.spans.items():
            if step in TIERS:
                self._tiers[step] = {each.at: each for each in spans if now - TIERS[step] <= each.at <= now}
        if self._outlives and recorded.until is not None and now - WEEK < recorded.until < now:
            self._since -= now - recorded.until

    # --- told by the tunnels --------------------------------------------------------------------------------------

    def moved(self, session: Session, before: Counters, after: Counters) -> None:
        """A session had carried `before` when it was last told of, and has carried `after`."""
        octets_in = max(0, after.octets_in - before.octets_in)
        octets_out = max(0, after.octets_out - before.octets_out)
        amounts = self._amounts
        amounts[0] += octets_in
        amounts[1] += octets_out
        amounts[2] += max(0, after.packets_in - before.packets_in)
        amounts[3] += max(0, after.packets_out - before.packets_out)
        if after.refused:
            for reason, count in after.refused.items():
                more = max(0, count - before.refused.get(reason, 0))
                self._refused[reason] = self._refused.get(reason, 0) + more
        if session.user is not None:
            more_in, more_out = self._moved.get(session.owner, (0, 0))
            self._moved[session.owner] = octets_in + more_in, octets_out + more_out

    def settled(self) -> None:
        """All that live sessions have carried by now has been told."""
        now, end = self._clock.epoch(), self._clock.monotonic()
        begin = now - (end - self._since)
        if now - begin < 1.0:
            return
        self._since, self._until = end, now
        activity = self._activity()
        counted = sum(activity.logins.values()), sum(activity.refusals.values())
        events = counted[0] - self._counted[0], counted[1] - self._counted[1]
        self._counted = counted
        for step, kept in TIERS.items():
            self._spread(step, max(begin, now - kept), now, now - begin, events, activity.sessions)
            oldest = int(now) - kept
            for at in [at for at in self._tiers[step] if at < oldest]:
                del self._tiers[step][at]
        self._spread_tunnels(begin, now)
        self._before = list(map(add, self._before, self._amounts))
        self._amounts = [0, 0, 0, 0]

    def _spread(
        self, step: int, begin: float, end: float, whole: float, events: tuple[int, int], sessions: int
    ) -> None:
        tier, unwritten = self._tiers[step], self._unwritten[step]
        for number, seconds in _spans(begin, end, step):
            at, share = number * step, seconds / whole
            span = tier.get(at)
            if span is None:
                span = tier[at] = Span(at)
            unwritten.add(at)
            span.known += seconds
            span.octets_in += self._amounts[0] * share
            span.octets_out += self._amounts[1] * share
            span.packets_in += self._amounts[2] * share
            span.packets_out += self._amounts[3] * share
            span.logins += events[0] * share
            span.refusals += events[1] * share
            span.sessions += sessions * seconds

    def _spread_tunnels(self, begin: float, now: float) -> None:
        shares = [(number, seconds / (now - begin)) for number, seconds in _spans(max(begin, now - HELD), now, FINE)]
        moved, self._moved = self._moved, {}
        for owner, (octets_in, octets_out) in moved.items():
            for number, share in shares:
                pending = self._pending_of(owner, number)
                pending.octets_in += octets_in * share
                pending.octets_out += octets_out * share

    # --- told by probes -------------------------------------------------------------------------------------------

    def asked(self, owner: str) -> None:
        """An echo request was sent to the tunnel of an owner."""
        self._pending_of(owner, int(self._clock.epoch()) // FINE).sent += 1

    def answered(self, owner: str, seconds: float) -> None:
        """It was answered."""
        pending = self._pending_of(owner, int(self._clock.epoch()) // FINE)
        if pending.answered > pending.sent:
            return  # The same one again. One more may be of the span before, or of what was just written.
        pending.least = min(pending.least, seconds) if pending.answered else seconds
        pending.most = max(pending.most, seconds)
        pending.total += seconds
        pending.answered += 1

    def _pending_of(self, owner: str, number: int) -> _Pending:
        table = self._pending[hash(owner) % _TURNS]
        pending = table.get(owner)
        if pending is None:
            pending = table[owner] = _Pending(number)
        return pending.at(number)

    # --- kept -----------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Once a second: write what there is to write. Raises StoreError; what it was about goes on in memory."""
        if not any(self._unwritten.values()):
            return
        await self._write_spans()
        self._turn = (self._turn + 1) % _TURNS
        await self._write_tunnels(self._turn)

    async def stop(self) -> None:
        """Write all of it. Raises StoreError."""
        await self._write_spans()
        for turn in range(_TURNS):
            await self._write_tunnels(turn)

    async def _write_spans(self) -> None:
        spans = {
            step: [self._tiers[step][at] for at in sorted(some) if at in self._tiers[step]]
            for step, some in self._unwritten.items()
        }
        oldest = {step: int(self._until) - kept for step, kept in TIERS.items()}
        for some in self._unwritten.values():
            some.clear()
        await self._store.write_past(spans, self._until, oldest)

    async def _write_tunnels(self, turn: int) -> None:
        table = self._pending[turn]
        cells = {owner: pending.cells() for owner, pending in table.items()}
        table.clear()
        if cells:
            await self._store.add_cells(cells)

    # --- asked for ------------------------------------------------------------------------------------------------

    def history(self) -> History:
        """The past of the broker; at once."""
        now = int(self._clock.epoch())
        return History(
            self._series(MINUTE, MINUTE, now - HOUR),
            self._series(MINUTE, 5 * MINUTE, now - DAY),
            self._series(TEN_MINUTES, HOUR, now - WEEK),
        )

    def carried(self) -> Counters:
        """What all tunnels have carried since the start of this process, as it has been told."""
        packets = list(map(add, self._before, self._amounts))
        return Counters(packets[2], packets[0], packets[3], packets[1], dict(self._refused))

    def latest(self) -> Point | None:
        """The last minute that anything is known of."""
        spans, now = self._tiers[MINUTE], self._clock.epoch()
        # A clock that was set back has left points of the future.
        newest = max((at for at in spans if at <= now), default=None)
        return None if newest is None else _point(spans[newest])

    async def of_tunnel(self, owner: str) -> TunnelHistory:
        """The past of an owner's tunnel. Raises StoreError."""
        stored = await self._store.ring(owner)
        pending = self._pending[hash(owner) % _TURNS].get(owner)
        if pending is not None:
            stored = ring.write(stored, pending.cells())
        return ring.read(stored, self._clock.epoch())

    def _series(self, tier: int, step: int, oldest: int) -> Series:
        """Spans of a tier put together to longer ones."""
        found: dict[int, Span] = {}
        for each in self._tiers[tier].values():
            at = each.at - each.at % step
            if at < oldest:
                continue
            whole = found.setdefault(at, Span(at))
            whole.known += each.known
            whole.octets_in += each.octets_in
            whole.octets_out += each.octets_out
            whole.packets_in += each.packets_in
            whole.packets_out += each.packets_out
            whole.logins += each.logins
            whole.refusals += each.refusals
            whole.sessions += each.sessions
        return Series(step, tuple(_point(found[at]) for at in sorted(found)))


def _spans(begin: float, end: float, step: int) -> Iterator[tuple[int, float]]:
    """The numbers of the spans between two epoch seconds, and how many seconds of each are."""
    number = int(begin // step)
    while number * step < end:
        yield number, min(end, (number + 1) * step) - max(begin, number * step)
        number += 1


def _point(span: Span) -> Point:
    known = max(span.known, 1e-3)
    return Point(
        at=span.at,
        octets_in=span.octets_in / known,
        octets_out=span.octets_out / known,
        packets_in=span.packets_in / known,
        packets_out=span.packets_out / known,
        logins=span.logins / known * HOUR,
        refusals=span.refusals / known * HOUR,
        sessions=span.sessions / known,
    )
