# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks RADIUS servers in their order until one answers; never blocks.

One client serves one purpose: a list of (address, port), such as the authentication ports of all servers. RFC 5997
treats each of them apart, so accounting has a client of its own.
Invariants: the first server that is alive is asked first, the next when it gives no answer; an exchange ends within
`Timing.patience` seconds; every server dead and none due for a trial is `NoAnswer` at once.
Not here: one server's sockets, repetition and death (`radius.peer`), what is asked (`radius.access`).
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ddtb6.broker.ports import Clock
from ddtb6.radius.attributes import Attribute
from ddtb6.radius.lane import Build
from ddtb6.radius.packets import Code, Reply
from ddtb6.radius.peer import Peer, Server, ServerState, Silent, Timing

__all__ = ["NoAnswer", "RadiusClient", "Server", "ServerState", "Timing"]


class NoAnswer(Exception):
    """No server answered; the text says of each why, and holds nothing secret."""


class RadiusClient:
    """Servers for one purpose, the preferred one first."""

    def __init__(
        self,
        reactor: Any,
        clock: Clock,
        servers: Sequence[Server],
        timing: Timing = Timing(),  # noqa: B008  A frozen value.
        identity: Iterable[Attribute] = (),
        *,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`identity` (NAS-Identifier and the like) goes into Status-Server. Opens nothing yet.

        `entropy` gives unpredictable octets, `jitter` numbers from 0 to 1.
        """
        identity = tuple(identity)
        self._peers = [Peer(reactor, clock, each, timing, identity, entropy, jitter) for each in servers]
        self._clock = clock
        self._timing = timing

    async def exchange(self, code: Code, build: Build, *, tries: int | None = None) -> Reply:
        """The first answer of a server to a request with the attributes that `build` gives.

        `build` is called for each server that is asked, at the moment of sending: each gets a packet of its own, with
        its own identifier and authenticator, which is repeated unchanged. `tries` datagrams go to each server, by
        default as `Timing` says; with 1, who calls repeats, and each repetition is a new packet.

        Raises NoAnswer, and Unencodable or what `build` raises.
        """
        deadline = self._clock.monotonic() + self._timing.patience
        silent = []
        for peer in self._peers:
            if peer.worth_asking and self._clock.monotonic() < deadline:
                try:
                    return await peer.ask(code, build, deadline, tries or self._timing.tries)
                except Silent as error:
                    silent.append(str(error))
        raise NoAnswer("; ".join(silent) or "no RADIUS server is alive")

    async def probe(self) -> list[tuple[str, float | None]]:
        """Status-Server to each, one after the other: name, and seconds until the answer; None for no answer."""
        results: list[tuple[str, float | None]] = []
        for peer in self._peers:
            begun = self._clock.monotonic()
            try:
                await peer.probe(2 * self._timing.timeout)
                results.append((peer.server.name, self._clock.monotonic() - begun))
            except Silent:
                results.append((peer.server.name, None))
        return results

    def states(self) -> tuple[ServerState, ...]:
        """How each does, in the order of asking."""
        return tuple(peer.state() for peer in self._peers)

    async def close(self) -> None:
        """What waits gets NoAnswer; sockets and timers are gone when this returns."""
        for peer in self._peers:
            await peer.close()
