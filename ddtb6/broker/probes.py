# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks the client at the end of each account's tunnel for an ICMPv6 echo once a minute, and tells how long it took.

There is no state of a request but in the request: when it was sent, for which tunnel, and a keyed hash of that and the
client's address. Who has the key is this process, so a time or a tunnel can be neither made up nor changed; the same
answer again is bounded by what was sent. Source of the idea: sixxsd, which used a secret that could be guessed.
The message after the checksum is: identifier, sequence number (the minute), microseconds (64 bits), tunnel (32 bits),
hash (16 octets), big-endian.
Invariants: one request a minute for each tunnel, spread over it; what comes back changes nothing but figures.
Not here: how requests travel (`planes`), where figures are kept (`recording`).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2s
from math import ceil
from typing import Protocol

from ddtb6.addressing.pool import Pool, Use
from ddtb6.broker.planes import ECHO_IDENTIFIER, DataPlane
from ddtb6.broker.ports import Clock, Session
from ddtb6.broker.views import EchoView
from ddtb6.tunnel.spec import TunnelId

INTERVAL = 60.0
"""Seconds between two requests to one tunnel."""
SOON = 5.0
"""Seconds until it is looked again for somebody to ask, where there was nobody."""
SENDING = 55
"""Seconds over which those of all tunnels are spread."""
PATIENCE = 10.0
"""Seconds after which an answer is none."""
BOUNDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, PATIENCE)
"""Seconds: upper ends of the classes that answers are counted in."""
_HEAD = struct.Struct("!HHQI")
_HASH = 16
KEY = 32
"""Octets of the key."""


class Figures(Protocol):
    """Where what was found goes."""

    def asked(self, owner: str) -> None:
        """An echo request was sent to the tunnel of an owner."""

    def answered(self, owner: str, seconds: float) -> None:
        """It was answered."""


class Sessions(Protocol):
    """What lives, as `broker.Broker` tells it."""

    def session(self, tunnel: TunnelId) -> Session | None:
        """A live session by its id."""

    def established(self) -> Iterable[Session]:
        """Those whose tunnels are in use, oldest first."""


class Probes:
    """All of them."""

    def __init__(
        self,
        clock: Clock,
        key: bytes,
        sessions: Sessions,
        pools: Mapping[str, Pool],
        plane: DataPlane,
        figures: Figures,
    ) -> None:
        """`key`: `KEY` octets that nobody knows."""
        self._now = clock.monotonic
        self._key = key
        self._sessions = sessions
        self._pools = [pool for pool in pools.values() if pool.use is not Use.PREFIXES]
        self._send: Callable[[bytes, bytes, bytes], bool] = plane.send_echo
        self._figures = figures
        self._waiting: list[Session] = []
        self._share = 0
        self._due = self._start = clock.monotonic()
        self._round = 0
        self._asked = 0
        self._answered = [0] * len(BOUNDS)
        self._seconds = 0.0
        plane.hear_echoes(self._heard)

    def tick(self) -> None:
        """Once a second: send the requests whose turn it is."""
        now = self._now()
        if now >= self._due:
            self._round += 1
            self._waiting = [session for session in self._sessions.established() if session.user is not None]
            self._due = max(self._due + INTERVAL, now + INTERVAL / 2) if self._waiting else now + SOON
            self._share = ceil(len(self._waiting) / SENDING)
        for _ in range(min(self._share, len(self._waiting))):
            session = self._waiting.pop()
            if self._sessions.session(session.id) is not None:
                self._ask(session)

    def view(self) -> EchoView:
        """What was counted since start."""
        return EchoView(self._asked, tuple(zip(BOUNDS, self._answered, strict=True)), self._seconds)

    def _ask(self, session: Session) -> None:
        address = session.spec.address
        if not self._pools:
            return
        ours = next((pool for pool in self._pools if address in pool.block), self._pools[0])
        client = address.packed
        head = _HEAD.pack(ECHO_IDENTIFIER, self._round & 0xFFFF, self._elapsed(), session.id)
        if self._send(ours.broker_address.packed, client, head + self._hash(head, client)):
            self._asked += 1
            self._figures.asked(session.owner)

    def _heard(self, client: bytes, rest: bytes) -> bool:
        """An echo reply came from the address `client`, with `rest` after its checksum; whether it answers us."""
        head = rest[: _HEAD.size]
        if len(rest) != _HEAD.size + _HASH or self._hash(head, client) != rest[_HEAD.size :]:
            return False
        _, _, sent, tunnel = _HEAD.unpack(head)
        seconds = (self._elapsed() - sent) / 1e6
        session = self._sessions.session(TunnelId(tunnel))
        if session is not None and 0 <= seconds <= PATIENCE:
            self._answered[bisect_left(BOUNDS, seconds)] += 1
            self._seconds += seconds
            self._figures.answered(session.owner, seconds)
        return True

    def _elapsed(self) -> int:
        return int((self._now() - self._start) * 1e6)

    def _hash(self, head: bytes, client: bytes) -> bytes:
        return blake2s(head + client, digest_size=_HASH, key=self._key).digest()
