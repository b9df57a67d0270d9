# SPDX-License-Identifier: GPL-2.0-or-later
"""TSP over TCP: the same messages without the reliability header.

What deployed clients need: a pause between rspauth and the status, as gogoCLIENT reads each with one recv() and hangs
when both come at once; a VERSION without line end taken after a pause, as tspc 2.1 sends it; no text for what is a
bare header on UDP.
Invariants: octets that wait are bounded by `StreamReader`; connections are bounded overall and each by a deadline; a
message is read only when the one before it has been answered, so pipelining works.
Not here: effects (`driver`).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker.admission import Admission
from ddtb6.broker.broker import Broker, Visitor
from ddtb6.broker.ports import Clock
from ddtb6.transport.driver import Driver
from ddtb6.tsp import codec
from ddtb6.tsp.effects import DeadlinePassed
from ddtb6.tsp.status import ServerBusy

VERSION_PAUSE = 0.2
"""Seconds after which a VERSION line counts although no line end has come."""
FOLLOWUP_PAUSE = 0.15
"""Seconds between the client's kernel having acknowledged rspauth and the status after it."""
ACK_POLL = 0.02
"""Seconds between two looks at the kernel's queue of octets not acknowledged."""
ACK_PATIENCE = 5.0
"""Seconds after which the status is sent whatever that queue holds."""
BACKLOG = 512
"""Connections that the kernel completes before they are taken."""
MAX_CONNECTIONS = 2048
"""Open at once; a file descriptor each."""


@implementer(IPushProducer)
class TcpSignalling(Protocol):
    """One connection; the `Wire` of its negotiation."""

    transport: Any

    def __init__(self, listener: TcpListener) -> None:
        self._listener = listener
        self._visitor: Visitor | None = None
        self._reader = codec.StreamReader()
        self._pause: Any = None
        self._deadline: Any = None
        self._followup: bytes | None = None
        self._stepping = False
        self._choked = False
        self._over = False

    def connectionMade(self) -> None:
        self._listener.open.add(self)
        self.transport.setTcpNoDelay(True)
        local, remote = self.transport.getHost(), self.transport.getPeer()
        link = Link(Carrier.TCP, Endpoint(local.host, local.port), Endpoint(remote.host, remote.port))
        self._visitor = self._listener.admitted(link)
        if self._visitor is None:
            self._write(codec.write_status(ServerBusy().line))
            self.hangup()
            return
        self.transport.registerProducer(self, True)
        self._arm()

    def dataReceived(self, data: bytes) -> None:
        if self._visitor is None or self._over:
            return
        self._reader.feed(data)
        if self._followup is None:
            self._cancel_pause()
            self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        self._listener.open.discard(self)
        self._cancel_pause()
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    # --- IPushProducer: a client that sends and never reads must not make us keep its answers ----------------------

    def pauseProducing(self) -> None:
        self._choked = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._choked = False
        self.transport.resumeProducing()
        if self._followup is None:
            self._advance()

    def stopProducing(self) -> None:
        self._over = True

    # --- Wire -----------------------------------------------------------------------------------------------------

    def reply(self, payload: bytes) -> None:
        if payload:
            self._write(payload)
        # The answer to a question came: what was pipelined behind it may be read now.
        if not self._stepping:
            self._pause = self._listener.reactor.callLater(0, self._advance)

    def followup(self, payload: bytes) -> None:
        if self._over:
            return
        self._cancel_pause()
        self._followup = payload
        # What was just written is in the kernel's queue only after this turn of the reactor.
        self._pause = self._listener.reactor.callLater(ACK_POLL, self._wait_for_ack, ACK_PATIENCE)

    def proven(self) -> None:
        """Nothing to do: a connection proves it from the start."""

    def hangup(self) -> None:
        self._over = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # --- the rest -------------------------------------------------------------------------------------------------

    def _write(self, payload: bytes) -> None:
        self.transport.write(payload)

    def _advance(self, idle: bool = False) -> None:
        """Take every message that is complete, as long as the negotiation listens."""
        assert self._visitor is not None, "nobody reads for a visitor that was not admitted"
        self._stepping = True
        try:
            while (
                not (self._over or self._choked)
                and self._followup is None
                and (phase := self._visitor.negotiation.phase) is not None
            ):
                message = self._reader.next(phase, idle=idle)
                if message is None:
                    if phase is codec.Phase.VERSION and not idle:
                        self._pause = self._listener.reactor.callLater(VERSION_PAUSE, self._advance, True)
                    return
                self._listener.driver.take(self._visitor, self, message)
        finally:
            self._stepping = False

    def _wait_for_ack(self, patience: float) -> None:
        unacknowledged = struct.unpack("=i", fcntl.ioctl(self.transport.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        if unacknowledged and patience > 0:
            self._pause = self._listener.reactor.callLater(ACK_POLL, self._wait_for_ack, patience - ACK_POLL)
        else:
            self._pause = self._listener.reactor.callLater(FOLLOWUP_PAUSE, self._send_followup)

    def _send_followup(self) -> None:
        payload, self._followup = self._followup, None
        if payload is not None and not self._over:
            self._write(payload)
            self._advance()

    def _cancel_pause(self) -> None:
        if self._pause is not None and self._pause.active():
            self._pause.cancel()

    def _arm(self) -> None:
        """The negotiation's deadline moves with every message; it is looked at when the last one known has come."""
        assert self._visitor is not None, "who is not admitted has no deadline"
        wait = self._visitor.negotiation.deadline - self._listener.clock.monotonic()
        if wait > 0:
            self._deadline = self._listener.reactor.callLater(wait, self._arm)
            return
        self._listener.driver.take(self._visitor, self, DeadlinePassed())
        if self._choked:
            self.transport.abortConnection()  # It does not read: what is left for it would keep the connection open.
        elif not self._over:  # Busy: the broker is slow, not the client.
            self._deadline = self._listener.reactor.callLater(1.0, self._arm)


class TcpListener(Factory):
    """All TCP connections of the process."""

    noisy = False

    def __init__(self, broker: Broker, driver: Driver, clock: Clock, reactor: Any) -> None:
        self._broker = broker
        self.driver = driver
        self.clock = clock
        self.reactor = reactor
        self.open: set[TcpSignalling] = set()

    def __len__(self) -> int:
        """Open connections."""
        return len(self.open)

    def buildProtocol(self, addr: object) -> TcpSignalling | None:
        if len(self.open) >= MAX_CONNECTIONS:
            return None
        return TcpSignalling(self)

    def admitted(self, link: Link) -> Visitor | None:
        """A visitor, or None when limits turn it away."""
        if self._broker.admit(link, len(self.open)) is Admission.WELCOME:
            return self._broker.welcome(link)
        return None


def listen_tcp(reactor: Any, bind: Endpoint, listener: TcpListener, inherited: socket.socket | None = None) -> Any:
    """Listen at `bind`, on `inherited` where that is bound to it already; returns Twisted's port. Raises OSError.

    An IPv6 wildcard is IPv6 only, as it is for UDP, so that an IPv4 wildcard can stand beside it; Twisted's own
    listener would take both.
    """
    family = socket.AF_INET if bind.family == 4 else socket.AF_INET6
    with inherited or socket.socket(family, socket.SOCK_STREAM) as opened:
        opened.setblocking(False)
        if inherited is None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((bind.address, bind.port))
        opened.listen(BACKLOG)
        return reactor.adoptStreamPort(opened.fileno(), family, listener)
