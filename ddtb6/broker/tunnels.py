# SPDX-License-Identifier: GPL-2.0-or-later
"""The live tunnels of the process: raised, watched, taken down, and made to match the store again.

What a session has carried is what the data plane says of the tunnel that stands and what was carried before that one.
A tunnel that a data plane kept while no broker ran is known by its counters, which never go down.
Invariants: one live tunnel an owner and an outer endpoint, the highest session id (the last log-in) winning, but an
anonymous log-in, which proves nothing and may have a forged source, never ends the tunnel of an account; a tunnel that
went down is written with its final counters, whatever the data plane says to that; what runs here is safe at every
`await` against what began meanwhile.
Not here: who may have a tunnel (`broker`), what the store grants (`store`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv6Address

from ddtb6.addressing.endpoint import Endpoint, source_of
from ddtb6.broker import events, planes, ports
from ddtb6.broker.history import Meter
from ddtb6.broker.registry import Live, Registry, session_view
from ddtb6.broker.search import SessionQuery, find
from ddtb6.broker.views import Reconciliation, SessionPage, SessionView
from ddtb6.broker.wheel import Wheel
from ddtb6.tsp.status import AddressInUse, RequestInProgress
from ddtb6.tunnel.reasons import EndReason, Refusal
from ddtb6.tunnel.reconcile import changes
from ddtb6.tunnel.spec import Counters, Observed, TunnelId

CHECKPOINT_INTERVAL = 60.0
"""Seconds between two writings of what live sessions have carried: the most a killed user-space plane can lose."""
COUNTED_AT_ONCE = 2000
"""Tunnels whose counters are read and written in one go. With more, a checkpoint takes several ticks."""
RAISED_AT_ONCE = 100
"""Tunnels raised in one go; log-ins get their turn between two."""
INTERIM_JITTER = 0.1
"""Part of the interval by which interim records of sessions are spread, so that they do not all come at once."""


class Tunnels:
    """All of them."""

    def __init__(
        self,
        clock: ports.Clock,
        store: ports.SessionStore,
        plane: planes.DataPlane,
        bus: events.Bus,
        offer_timeout: float,
    ) -> None:
        """`offer_timeout`: seconds after which an offer is taken back that was neither accepted nor used."""
        self._clock = clock
        self._store = store
        self._plane = plane
        self._bus = bus
        self._offer_timeout = offer_timeout
        self._live = Registry()
        self._expiry: Wheel[TunnelId] = Wheel(clock.monotonic())
        self._interims: Wheel[TunnelId] = Wheel(clock.monotonic())
        self._endings: list[ports.Ending] = []
        self._checkpoint_due = clock.monotonic() + CHECKPOINT_INTERVAL
        self._uncounted: list[list[TunnelId]] = []
        """What the checkpoint under way has still to read, tick by tick."""
        self._trouble: str | None = None
        self._told: str | None = None
        """The trouble that was told last; what stays is told once."""
        self.reconciled: Reconciliation | None = None
        """What the last reconciliation did."""
        self.meter: Meter | None = None
        plane.subscribe(self._plane_lost)

    def __len__(self) -> int:
        return len(self._live)

    @property
    def in_trouble(self) -> bool:
        """The data plane is to be made to match again."""
        return self._trouble is not None

    def of_owner(self, owner: str) -> ports.Session | None:
        """The session of the owner's live tunnel."""
        live = self._live.of_owner(owner)
        return live.session if live else None

    def carrying(self, inner: IPv6Address) -> ports.Session | None:
        """The live session whose tunnel carries an inner address."""
        live = self._live.carrying(inner)
        return live.session if live else None

    def session(self, tunnel: TunnelId) -> ports.Session | None:
        """The session of a live tunnel."""
        live = self._live.get(tunnel)
        return live.session if live else None

    def established(self) -> Iterator[ports.Session]:
        """The sessions of live tunnels that are in use, oldest first."""
        return (live.session for live in self._live if live.established)

    def named(self, name: int) -> ports.Session | None:
        """The live session that accounting calls `name`: its `Terms.account_session`, or without one its id."""
        live = self._live.named(name)
        return live.session if live else None

    def others_from(self, remote: Endpoint, owner: str) -> int:
        """How many tunnels of other owners stand from the source of `remote`."""
        own = self._live.of_owner(owner)
        return self._live.from_source(remote) - bool(own and source_of(own.session.spec.remote) == source_of(remote))

    def strays(self) -> Mapping[Refusal, int]:
        """Packets since start that belong to no tunnel, by reason."""
        return self._plane.strays()

    def sessions(self) -> Iterator[ports.Session]:
        """The sessions of all live tunnels, oldest first."""
        return (live.session for live in self._live)

    # --- one tunnel -----------------------------------------------------------------------------------------------

    async def stand(self, session: ports.Session, *, nat: bool, by: str) -> None:
        """Make the tunnel of a session that was just written stand; what is in its way goes down first.

        `by` says who asked, for the log. Raises RequestInProgress when a later log-in has overtaken this one,
        AddressInUse when an anonymous client is at the endpoint of an account, DataPlaneError when it cannot be
        carried; in each case the session's end is written.
        """
        live = self._alive(session, nat=nat, established=False)
        while (in_the_way := self._live.of_owner(session.owner) or self._live.at(session.spec.remote)) is not None:
            same_owner = in_the_way.session.owner == session.owner
            reason = EndReason.REPLACED if same_owner else EndReason.ENDPOINT_TAKEN
            outranked = session.user is None and in_the_way.session.user is not None
            if outranked or in_the_way.session.id > session.id:
                self.drop(session, reason)
                raise AddressInUse if outranked else RequestInProgress
            await self._end(in_the_way, reason, by)
        self._live.add(live)
        await self._raise(live)
        if live not in self._live:
            raise RequestInProgress
        self._watch(live)
        self._watch_interim(live)
        self._bus.publish(events.SessionOpened(session, nat))

    def drop(self, session: ports.Session, reason: EndReason) -> None:
        """End a session that was just written and is to have no tunnel; the next round writes it."""
        self._endings.append(ports.Ending(session.id, reason, session.carried))

    def establish(self, tunnel: TunnelId) -> bool:
        """The client accepted its offer; False when that tunnel does not stand any more."""
        live = self._live.get(tunnel)
        if live is None:
            return False
        if not live.established:
            live.established = True
            self._bus.publish(events.SessionEstablished(live.session))
        return True

    async def end(self, tunnel: TunnelId, reason: EndReason) -> bool:
        """Take a tunnel down, durably; False when there is none of that id."""
        live = self._live.get(tunnel)
        if live is None:
            return False
        await self._end(live, reason)
        await self._write_endings()
        return True

    async def change_terms(self, tunnel: TunnelId, terms: ports.Terms) -> bool:
        """Let a live session go on under other terms, durably; False when there is none of that id."""
        live = self._live.get(tunnel)
        if live is None:
            return False
        await self._store.change_terms(tunnel, terms)
        idle_limit = live.session.idle_limit if terms.idle_limit is None else terms.idle_limit
        live.session = replace(live.session, terms=terms, idle_limit=idle_limit)
        live.ends_at = self._ends_at(live.session)
        if live in self._live:
            self._watch(live)
            self._watch_interim(live)
        return live in self._live

    def _alive(self, session: ports.Session, *, nat: bool | None, established: bool) -> Live:
        now = self._clock.monotonic()
        return Live(session, now, nat=nat, established=established, ends_at=self._ends_at(session))

    def _ends_at(self, session: ports.Session) -> float | None:
        if not session.terms.session_limit:
            return None
        left = session.started + session.terms.session_limit - self._clock.epoch()
        return self._clock.monotonic() + left

    async def _raise(self, live: Live) -> None:
        session = live.session
        try:
            await self._plane.raise_tunnel(session.spec)
        except Exception as error:
            self._bus.publish(events.PlaneTrouble(f"tunnel {session.id} of {session.owner}: {error}"))
            await self._end(live, EndReason.FAILED)
            raise

    async def _end(self, live: Live, reason: EndReason, by: str = "") -> None:
        if live not in self._live:
            return
        self._live.remove(live)
        session = live.session
        try:
            final = await self._plane.lower_tunnel(session.id)
        except planes.DataPlaneError as error:
            final = None
            self._trouble = f"tunnel {session.id} of {session.owner} could not be taken down: {error}"
        if final is not None:
            self._counted(live, live.before + final)
        ending = ports.Ending(session.id, reason, live.counted)
        self._endings.append(ending)
        self._bus.publish(events.SessionEnded(session, ending, by))

    async def _write_endings(self) -> None:
        endings, self._endings = self._endings, []
        if not endings:
            return
        try:
            await self._store.close_sessions(endings)
        except Exception:
            self._endings = endings + self._endings
            raise

    # --- silence --------------------------------------------------------------------------------------------------

    def _watch(self, live: Live) -> None:
        """Have it looked at when it may have to end."""
        limit, session = self._limit(live), live.session
        if limit or live.ends_at is not None:
            quiet_until = live.quiet_since + limit if limit else math.inf
            self._expiry.schedule(session.id, min(quiet_until, math.inf if live.ends_at is None else live.ends_at))

    def _watch_interim(self, live: Live) -> None:
        """Have accounting told of it after another interval."""
        session = live.session
        live.interim_at = None
        if session.terms.interim_interval:
            # Knuth's multiplicative hash of the id: spread without a random number.
            spread = session.id * 2654435761 % 1024 / 1024 * INTERIM_JITTER
            live.interim_at = self._clock.monotonic() + session.terms.interim_interval * (1 - spread)
            self._interims.schedule(session.id, live.interim_at)

    def _limit(self, live: Live) -> float:
        """Seconds of silence that end it; 0: none do."""
        return live.session.idle_limit if live.established else self._offer_timeout

    async def _expire(self, now: float) -> None:
        due = {each: live for each in self._expiry.due(now) if (live := self._live.get(each))}
        if not due:
            return
        try:
            seen = await self._plane.dump(due.keys())
        except planes.DataPlaneError:
            for each in due:
                self._expiry.schedule(each, now)
            raise
        for observed in seen:
            live = due[observed.spec.id]
            if observed.last_seen is not None:
                live.quiet_since = max(live.quiet_since, observed.last_seen)
                live.established = True
        for live in due.values():
            limit = self._limit(live)
            if live.ends_at is not None and now >= live.ends_at:
                await self._end(live, EndReason.SESSION_TIMEOUT)
            elif limit and now - live.quiet_since >= limit:
                await self._end(live, EndReason.IDLE if live.established else EndReason.NOT_ACCEPTED)
            else:
                self._watch(live)

    # --- all of them ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the data plane and make true again what the store says should be."""
        await self._plane.start()
        sessions = await self._store.live_sessions()
        there = {each.spec.id: each for each in await self._plane.dump()}
        newest: list[ports.Session] = []
        taken: set[object] = set()
        for session in reversed(sessions):
            if taken.isdisjoint((session.owner, session.spec.remote)):
                newest.append(session)
            else:
                reason = EndReason.REPLACED if session.owner in taken else EndReason.ENDPOINT_TAKEN
                self._endings.append(ports.Ending(session.id, reason, await self._final(session, there)))
            taken |= {session.owner, session.spec.remote}
        for session in reversed(newest):
            live = self._alive(session, nat=None, established=True)
            self._live.add(live)
            self._watch(live)
            self._watch_interim(live)
        await self._reconcile(there, closed=len(sessions) - len(newest))
        await self._write_endings()
        if self._plane.outlives:
            await self._checkpoint()  # What was carried meanwhile belongs to the time before.

    async def _final(self, session: ports.Session, there: dict[TunnelId, Observed]) -> Counters:
        """All that a session has carried that ended unnoticed; its tunnel goes down."""
        if there.pop(session.id, None) is None:
            return session.carried
        counted = session.before + (await self._plane.lower_tunnel(session.id) or Counters())
        return counted if counted.covers(session.carried) else session.carried

    async def stop(self) -> None:
        """Write down what is known and let go of the data plane.

        Sessions stay open: a restarted broker resumes them.
        """
        try:
            await self._write_endings()
            await self._checkpoint()
        finally:
            await self._plane.stop()

    async def tick(self) -> None:
        """Once a second: expiry, endings not yet written, the checkpoint; after trouble, reconciliation before them."""
        now = self._clock.monotonic()
        try:
            if self._trouble is not None and not await self._repaired(self._trouble):
                return
            await self._expire(now)
        finally:
            await self._write_endings()
        await self._write_interims(now)
        if now >= self._checkpoint_due:
            self._checkpoint_due = now + CHECKPOINT_INTERVAL
            ids = [live.session.id for live in self._live]
            self._uncounted = [ids[at : at + COUNTED_AT_ONCE] for at in range(0, len(ids), COUNTED_AT_ONCE)] or [[]]
        if self._uncounted:
            await self._checkpoint(self._uncounted.pop(0), last=not self._uncounted)

    async def _repaired(self, why: str) -> bool:
        """Whether the data plane, which had this trouble, has none now."""
        if why != self._told:
            self._bus.publish(events.PlaneTrouble(why))
        self._trouble, self._told = None, why
        try:
            await self._plane.start()
            await self._reconcile({each.spec.id: each for each in await self._plane.dump()})
        except planes.DataPlaneError as error:
            self._trouble = str(error)
            return False
        except ports.StoreError as error:
            self._trouble = str(error)
            raise
        self._told = None
        return True

    async def _reconcile(self, there: dict[TunnelId, Observed], closed: int = 0) -> None:
        """Make the data plane, which has what is `there`, carry what lives; `closed` is for the report only."""
        todo = changes((live.session.spec for live in self._live), (each.spec for each in there.values()))
        anew = [live for live in self._live if not _continues(live, there.get(live.session.id))]
        strange = {live.session.id for live in anew if live.session.id in there}
        for tunnel in (*todo.lower, *strange):
            if tunnel in strange or self._live.get(tunnel) is None:
                await self._plane.lower_tunnel(tunnel)
        await self._count_anew(anew)
        to_raise = {spec.id: spec for spec in todo.raise_} | {live.session.id: live.session.spec for live in anew}
        waiting = list(to_raise)
        for start in range(0, len(waiting), RAISED_AT_ONCE):
            await self._raise_all(waiting[start : start + RAISED_AT_ONCE])
        kept = todo.kept + len(todo.raise_) - len(to_raise)
        done = events.Reconciled(kept, len(to_raise), len(todo.lower) + len(strange), closed)
        self.reconciled = Reconciliation(self._clock.epoch(), done.kept, done.raised, done.lowered, done.closed)
        self._bus.publish(done)

    async def _count_anew(self, lives: Sequence[Live]) -> None:
        """Have their sessions count from here on with tunnels that begin at zero, before these are raised.

        Written first: a broker that is killed in between would take the new counters for the old ones. That only
        matters where tunnels outlive the broker.
        """
        changed = {live.session.id: live.counted for live in lives if live.counted != live.before}
        if changed and self._plane.outlives:
            await self._store.checkpoint(changed, anew=True)
        for live in lives:
            live.before = live.counted

    async def _raise_all(self, tunnels: Sequence[TunnelId]) -> None:
        """Raise those that still live; who is refused is told and ended, the others go on."""
        lives = [live for live in map(self._live.get, tunnels) if live is not None]
        refused = await self._plane.raise_tunnels([live.session.spec for live in lives])
        for live in lives:
            session = live.session
            if session.id in refused:
                trouble = f"tunnel {session.id} of {session.owner}: {refused[session.id]}"
                self._bus.publish(events.PlaneTrouble(trouble))
                await self._end(live, EndReason.FAILED)
            elif live not in self._live:
                await self._plane.lower_tunnel(session.id)  # It ended while others were raised.

    def _plane_lost(self, event: planes.PlaneEvent) -> None:
        self._trouble = event.why

    async def _checkpoint(self, tunnels: Sequence[TunnelId] | None = None, *, last: bool = True) -> None:
        """Of these, or of all. `last`: no live tunnel is left that was not read."""
        carried = self._count(await self._plane.dump(tunnels), moved_only=True)
        if self.meter is not None and last:
            self.meter.settled()
        await self._store.checkpoint(carried)

    async def _write_interims(self, now: float) -> None:
        due: list[TunnelId] = []
        for tunnel in self._interims.due(now):
            live = self._live.get(tunnel)
            if live is not None and live.interim_at is not None and now >= live.interim_at:
                due.append(tunnel)
                self._watch_interim(live)
        if due:
            await self._store.checkpoint(self._count(await self._plane.dump(due)), interim=True)

    def _count(self, observed: Iterable[Observed], *, moved_only: bool = False) -> dict[TunnelId, Counters]:
        """All that live sessions have carried; remembered, too, in case the data plane loses it."""
        carried = {}
        for each in observed:
            if (live := self._live.get(each.spec.id)) is not None:
                counted = live.before + each.counters
                if not moved_only or counted != live.counted:
                    carried[each.spec.id] = self._counted(live, counted)
        return carried

    def _counted(self, live: Live, carried: Counters) -> Counters:
        if self.meter is not None:
            self.meter.moved(live.session, live.counted, carried)
        live.counted = carried
        return carried

    # --- views ----------------------------------------------------------------------------------------------------

    async def page(self, query: SessionQuery) -> SessionPage:
        """The tunnels that a query asks for."""
        total, found = find(self._live, query)
        seen = {each.spec.id: each for each in await self._plane.dump([live.session.id for live in found])}
        now = self._clock.monotonic()
        return SessionPage(total, tuple(session_view(live, seen.get(live.session.id), now) for live in found))

    async def views(self, only: TunnelId | None = None) -> Sequence[SessionView]:
        """Live sessions, oldest first; or the one asked for, if it lives."""
        seen = {each.spec.id: each for each in await self._plane.dump(None if only is None else [only])}
        now = self._clock.monotonic()
        chosen = self._live if only is None else [live] if (live := self._live.get(only)) else []
        return [session_view(live, seen.get(live.session.id), now) for live in chosen]


def _continues(live: Live, found: Observed | None) -> bool:
    """Whether what was found is the tunnel whose counters the last checkpoint saw."""
    return found is not None and (live.before + found.counters).covers(live.counted)
