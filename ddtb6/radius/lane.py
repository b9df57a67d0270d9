# SPDX-License-Identifier: GPL-2.0-or-later
"""A request on its way to a server, and the sockets through which requests go.

A socket has 256 identifiers, so a server gets several. Identifiers are used again in the order in which they became
free: an answer that comes late should find nobody rather than somebody else.
Not here: when something is sent, and what an answer is worth (`radius.peer`).
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ILoggingContext
from twisted.internet.protocol import DatagramProtocol
from zope.interface import implementer

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.radius.attributes import Attribute
from ddtb6.radius.packets import LARGEST, Code, Reply, Request

IDENTIFIERS = 256
"""Requests that may be under way through one socket."""
RECEIVE_BUFFER = 1 << 20

Build = Callable[[], Iterable[Attribute]]
"""Gives the attributes of a request at the moment of sending."""


class Flight:
    """One request to one server, until its end."""

    __slots__ = (
        "answer",
        "build",
        "code",
        "deadline",
        "first_sent",
        "lane",
        "repeated",
        "request",
        "timer",
        "trial",
        "tries",
        "unsigned",
        "wait",
        "why",
    )

    def __init__(
        self, code: Code, build: Build, deadline: float, tries: int, wait: float, cancelled: Callable[[Flight], None]
    ) -> None:
        self.code, self.build, self.deadline, self.tries, self.wait = code, build, deadline, tries, wait
        self.answer: Deferred[Reply] = Deferred(lambda _: cancelled(self))
        self.lane: Lane | None = None
        self.request: Request | None = None
        self.timer: Any = None
        self.trial = self.repeated = self.unsigned = False
        self.first_sent: float | None = None
        self.why = ""


@implementer(ILoggingContext)
class Lane(DatagramProtocol):
    """One socket and its identifiers."""

    noisy = False

    def __init__(self, reactor: Any, to: Endpoint, receive: Callable[[Lane, bytes, tuple[str, int]], None]) -> None:
        """Raises CannotListenError or OSError."""
        self.flights: dict[int, Flight] = {}
        self.free = deque(range(IDENTIFIERS))
        self._receive = receive
        self._port = reactor.listenUDP(0, self, interface="0.0.0.0" if to.family == 4 else "::", maxPacketSize=LARGEST)
        self._port.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def logPrefix(self) -> str:
        return "RADIUS client"

    def write(self, datagram: bytes, to: Endpoint) -> None:
        """Raises OSError."""
        self._port.write(datagram, tuple(to))

    def datagramReceived(self, datagram: bytes, source: Any) -> None:
        self._receive(self, datagram, (source[0], source[1]))

    def close(self) -> Deferred[None]:
        closed: Deferred[None] = self._port.stopListening()
        return closed
