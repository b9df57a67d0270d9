# SPDX-License-Identifier: GPL-2.0-or-later
"""Verbs about live sessions, about leases and who had them, about what happened lately and what waits to be told.

Not here: users (`accounts`), who may call (`routes`, `control_site`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Protocol

from ddtb6.broker.history import History, Point, TunnelHistory
from ddtb6.broker.journal import Journal
from ddtb6.broker.management import ManagementStore
from ddtb6.broker.ports import AccountStore, Ending, Holding, Lease, PastSession, SessionStore
from ddtb6.broker.search import SessionQuery, Sort
from ddtb6.broker.views import AccountingView, Overview, SessionPage, SessionView
from ddtb6.tunnel.reasons import EndReason
from ddtb6.tunnel.spec import TunnelId
from ddtb6.web.recent import Happening, Recent
from ddtb6.web.verbs import ControlError, Kind, stopped

SESSIONS_SHOWN = 1000
"""How many sessions `session.list` gives unless asked for more."""
ROWS_SHOWN = 100
"""How many rows other lists give unless asked for more."""


class Broker(Protocol):
    """What management needs of the running broker."""

    async def page(self, query: SessionQuery) -> SessionPage:
        """The live sessions that a query asks for."""

    async def sessions(self, only: TunnelId | None = None) -> Sequence[SessionView]:
        """Live sessions, oldest first; or the one asked for, if it lives."""

    async def disconnect(self, tunnel: TunnelId, reason: EndReason) -> bool:
        """End a live session; False when there is none with that id."""

    async def disconnect_owner(self, owner: str, reason: EndReason) -> bool:
        """End the owner's session; False when it has none."""

    async def release(self, owner: str) -> Sequence[Lease]:
        """End the owner's session, then give up its leases; returns what was released."""


class Past(Protocol):
    """What was carried and measured in the past."""

    def history(self) -> History:
        """Of the broker as a whole; at once."""

    def latest(self) -> Point | None:
        """The last minute of it that anything is known of."""

    async def of_tunnel(self, owner: str) -> TunnelHistory:
        """Of an owner's tunnel. Raises StoreError."""


class Books(SessionStore, AccountStore, ManagementStore, Journal, Protocol):
    """The store in all of its roles."""


@dataclass(frozen=True, slots=True)
class RecordView:
    """An accounting record that waits."""

    number: int
    kind: str
    """``start``, ``interim``, ``stop``, ``on`` or ``off``."""
    at: float
    """Epoch seconds of the event."""
    session: TunnelId | None
    user: str | None


@dataclass(frozen=True, slots=True)
class JournalView:
    """Accounting records that no server has acknowledged."""

    waiting: int
    records: Sequence[RecordView]
    """The oldest of them."""
    delivery: AccountingView | None
    """How their delivery does; null where nobody is to be told."""


class Tunnels:
    """The verbs."""

    def __init__(
        self,
        store: Books,
        broker: Broker | None,
        overview: Callable[[], Overview] | None,
        recent: Recent | None,
        past: Past | None,
    ) -> None:
        """All but the store are None where no broker runs."""
        self._store = store
        self._broker = broker
        self._overview = overview
        self._recent = recent
        self._past = past

    @property
    def _live(self) -> Broker:
        if self._broker is None:
            raise stopped()
        return self._broker

    async def overview(self) -> Overview:
        """What the broker as a whole is doing."""
        if self._overview is None:
            raise stopped()
        return self._overview()

    async def whole_history(self) -> History:
        """What the broker as a whole did in the last hour, day and week."""
        if self._past is None:
            raise stopped()
        return self._past.history()

    # --- sessions ---

    async def list(
        self,
        user: str | None = None,
        search: str = "",
        sort: Sort = Sort.STARTED,
        descending: bool = False,
        offset: int = 0,
        limit: int = SESSIONS_SHOWN,
    ) -> SessionPage:
        """Live sessions.

        `search` is part of a user name, an id, an inner address or one inside a prefix, or how the outer endpoint
        begins.
        """
        return await self._live.page(SessionQuery(search, user, sort, descending, offset, limit))

    async def show(self, id: TunnelId) -> SessionView:
        """A live session."""
        views = await self._live.sessions(id)
        if not views:
            raise ControlError(f"there is no live session {id}; `ddtb6 session list` shows them", Kind.MISSING)
        return views[0]

    async def kill(self, id: TunnelId) -> SessionView:
        """End a live session; its client will probably come back."""
        view = await self.show(id)
        await self._live.disconnect(id, EndReason.DISCONNECTED)
        return view

    async def history(self, name: str) -> TunnelHistory:
        """What a user's tunnel carried, and how long its echoes took, in the last day and week."""
        if self._past is None:
            raise stopped()
        return await self._past.of_tunnel(f"user:{name}")

    async def past(self, owner: str | None = None, limit: int = ROWS_SHOWN) -> Sequence[PastSession]:
        """Sessions as history has them, newest first, live ones included."""
        return await self._store.past_sessions(owner, limit)

    async def views(self, tunnel: TunnelId) -> Sequence[SessionView]:
        """The session, if there is a broker and it lives."""
        return await self._broker.sessions(tunnel) if self._broker is not None else ()

    async def disconnect(self, owner: str, reason: EndReason) -> bool:
        """End the owner's session; a stopped broker's in the store, or its next start would raise it again."""
        if self._broker is not None:
            return await self._broker.disconnect_owner(owner, reason)
        sessions = [each for each in await self._store.live_sessions() if each.owner == owner]
        await self._store.close_sessions([Ending(each.id, reason, each.carried) for each in sessions])
        return bool(sessions)

    # --- leases ---

    async def leases(
        self,
        owner: str | None = None,
        released: bool = False,
        after: IPv6Address | None = None,
        limit: int | None = None,
    ) -> Sequence[Lease]:
        """Who holds which address and prefix; or who did, where it was released.

        With `limit` in the order of addresses behind `after`, without in that of granting. Of what was released the
        newest, 1000 unless `limit` says otherwise.
        """
        if released:
            return await self._store.leases(owner, held=False, limit=limit or SESSIONS_SHOWN)
        if limit is None or owner is not None:
            return await self._store.leases(owner)
        return await self._store.leases_behind(after, limit)

    async def release(self, owner: str) -> Sequence[Lease]:
        """End an owner's session and give up all it holds; its next log-in gets others."""
        if self._broker is not None:
            released = await self._broker.release(owner)
        else:
            await self.disconnect(owner, EndReason.DISCONNECTED)
            released = await self._store.release(owner)
        if not released:
            raise ControlError(f"{owner} holds nothing; `ddtb6 lease list` shows who does", Kind.MISSING)
        return released

    async def whois(self, address: IPv6Address, at: float | None = None) -> Holding:
        """Who has an address, or had it in the second that begins at `at`, and from where."""
        holding = await self._store.whois(address, at)
        if holding is None:
            sentence = f"nobody holds {address}" if at is None else f"nobody held {address} at that time"
            raise ControlError(sentence, Kind.MISSING)
        return holding

    # --- what happened, what waits ---

    async def events(self, user: str | None = None, limit: int = ROWS_SHOWN) -> Sequence[Happening]:
        """What happened lately, newest first, with reasons in words; forgotten when the daemon ends."""
        if self._recent is None:
            raise stopped()
        return self._recent.newest(limit, None if user is None else f"user:{user}")

    async def journal(self, limit: int = ROWS_SHOWN) -> JournalView:
        """Accounting records that no server has acknowledged yet."""
        aaa = self._overview().aaa if self._overview is not None else None
        records = [
            RecordView(
                each.number,
                each.kind.name.lower(),
                each.at,
                each.session.id if each.session else None,
                each.session.user if each.session else None,
            )
            for each in await self._store.waiting(0, limit)
        ]
        return JournalView(await self._store.backlog(), records, aaa.accounting if aaa else None)
