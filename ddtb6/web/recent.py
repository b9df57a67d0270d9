# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened lately, with reasons in words: a bounded memory of the bus.

What strangers provoke is remembered apart from what happens to accounts, so that a flood of it pushes nothing else out.
Words are made when somebody reads, not when it happens.
Invariant: as many happenings as `OF_ACCOUNTS` and `OF_STRANGERS` say, whatever comes.
Not here: the words (`logbook`), what is kept for good (the store).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.broker import events
from ddtb6.broker.ports import Clock
from ddtb6.logbook import words
from ddtb6.tunnel.spec import TunnelId
from ddtb6.web.explained import meaning

OF_ACCOUNTS = 4000
OF_STRANGERS = 1000


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened."""

    number: int
    """Rises, from 1 at each start of the daemon."""
    at: float
    """Epoch seconds."""
    kind: str
    """``login-refused``, ``request-refused``, ``session-opened``, ``session-ended``, ``data-plane``."""
    owner: str | None
    """Whom it concerns, where that is known."""
    remote: Endpoint | None
    """The outer endpoint it came from."""
    session: TunnelId | None
    text: str
    """What happened and why, in one sentence."""
    meaning: str = ""
    """What it means for the owner and what to do, where there is something."""


class Recent:
    """Listens to the bus."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.epoch
        self._number = 0
        self._accounts: deque[tuple[int, float, events.Event]] = deque(maxlen=OF_ACCOUNTS)
        self._strangers: deque[tuple[int, float, events.Event]] = deque(maxlen=OF_STRANGERS)

    def note(self, event: events.Event) -> None:
        """Remember `event`, if it is told of at all."""
        if isinstance(event, events.LoggedIn | events.SessionEstablished):
            return  # The session between them says the same and more.
        self._number += 1
        of_stranger = isinstance(event, events.NewcomerRefused | events.LoginRefused) or (
            isinstance(event, events.SessionOpened | events.SessionEnded) and event.session.user is None
        )
        (self._strangers if of_stranger else self._accounts).append((self._number, self._now(), event))

    def newest(self, limit: int, owner: str | None = None) -> Sequence[Happening]:
        """The newest `limit` happenings, or those that concern `owner`; newest first."""
        noted = merge(reversed(self._accounts), reversed(self._strangers), key=lambda each: -each[0])
        told = (each for each in noted if owner is None or _owner(each[2]) == owner)
        return [_happening(*each) for each in islice(told, limit)]


def _owner(event: events.Event) -> str | None:
    match event:
        case events.SessionOpened() | events.SessionEnded():
            return event.session.owner
        case events.RequestRefused():
            return event.owner or None
        case events.LoginRefused():
            return f"user:{event.user}" if event.user else None
    return None


_KINDS: dict[type, str] = {
    events.NewcomerRefused: "login-refused",
    events.LoginRefused: "login-refused",
    events.RequestRefused: "request-refused",
    events.SessionOpened: "session-opened",
    events.SessionEnded: "session-ended",
    events.Reconciled: "data-plane",
    events.PlaneTrouble: "data-plane",
}


def _happening(number: int, at: float, event: events.Event) -> Happening:
    session, remote = None, None
    match event:
        case events.SessionOpened() | events.SessionEnded():
            session, remote = event.session.id, event.session.spec.remote
        case events.NewcomerRefused() | events.LoginRefused() | events.RequestRefused():
            remote = event.link.remote
    return Happening(
        number, at, _KINDS.get(type(event), "other"), _owner(event), remote, session, words(event), meaning(event)
    )
