# SPDX-License-Identifier: GPL-2.0-or-later
"""The two ways to a broker: a UDP port that carries signalling and packets, and a TCP connection for signalling.

Invariants: the UDP port is never connected, because Twisted closes connected ports on the first ICMP error; instead the
source of every datagram is compared. What a broker sends after the negotiation is over is dropped, packets excepted.
Not here: what is said (`tsp.client`), repetitions (`tsp.exchange`), what follows from the outcome (`program`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import DatagramProtocol, connectionDone
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.python.failure import Failure

from ddtb6.addressing.endpoint import Endpoint
from ddtb6.tsp.client import ClientNegotiation
from ddtb6.tsp.exchange import ClientExchange
from ddtb6.tsp.framing import Kind, classify
from ddtb6.tsp.outcomes import Done, Effect, Failed, OlderVersion, Poll, Redirect, Write

CONNECT_TIMEOUT = 10
"""Seconds for a TCP connection to come about."""
REPLY_TIMEOUT = 30.0
"""Seconds that a reply over TCP may take; RADIUS servers behind a broker are slow."""


@dataclass(frozen=True, slots=True)
class Silent:
    """The broker did not answer, or no longer."""

    why: str


Outcome = Done | Failed | Redirect | OlderVersion | Silent


class Reactor(Protocol):
    """What is needed of Twisted's reactor."""

    def seconds(self) -> float: ...
    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any) -> Any: ...
    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> Any: ...
    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any: ...
    def resolve(self, name: str, timeout: Any = ()) -> Any: ...
    def addReader(self, reader: Any) -> Any: ...
    def removeReader(self, reader: Any) -> Any: ...
    def addSystemEventTrigger(self, phase: str, eventType: str, callable: Callable[..., Any], *args: Any) -> Any: ...


class UdpPath(DatagramProtocol):
    """One UDP port of ours and one broker. Negotiates once, then carries packets."""

    LARGEST_DATAGRAM = 65535

    transport: Any

    def __init__(self, reactor: Reactor, remote: Endpoint) -> None:
        """Opens a new port."""
        self.receive_packet: Callable[[bytes], None] | None = None
        """Gets every IPv6 packet from the broker; None: they are dropped."""
        self._reactor = reactor
        self._remote = remote
        self._role: ClientNegotiation | None = None
        self._exchange = ClientExchange(reactor.seconds())
        self._outcome: Deferred[Outcome] | None = None
        self._timer: Any = None
        self._port = reactor.listenUDP(0, self, maxPacketSize=self.LARGEST_DATAGRAM)

    def negotiate(self, role: ClientNegotiation) -> Deferred[Outcome]:
        """Fires with what came of it. To be called once; may be cancelled."""
        self._role = role
        outcome: Deferred[Outcome] = Deferred(lambda _: self._stop())
        self._outcome = outcome
        self._request(role.start())
        return outcome

    def send(self, packet: bytes) -> bool:
        """Give a packet to the broker; False when the network took none."""
        if self.transport is None:
            return False
        try:
            self.transport.write(packet, self._remote)
        except OSError:  # no route just now, or a full queue; whoever sent it does without, or sends it again
            return False
        return True

    def close(self) -> None:
        """Give the port back."""
        self._stop()
        self.receive_packet = None
        self._port.stopListening()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if addr[0] != self._remote.address or addr[1] != self._remote.port:
            return
        kind = classify(datagram)
        if kind is Kind.DATA:
            if self.receive_packet is not None:
                self.receive_packet(datagram)
        elif kind is Kind.SIGNALLING and self._role is not None and self._outcome is not None:
            text = self._exchange.reply(datagram, self._reactor.seconds())
            if text is not None:
                self._cancel_timer()
                self._perform(self._role.receive(text))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Write):
                self._request(effect.text)
            elif isinstance(effect, Poll):
                self._request(b"")
            else:
                self._finish(effect)

    def _request(self, text: bytes) -> None:
        self._cancel_timer()
        self.send(self._exchange.request(text, self._reactor.seconds()))
        self._arm()

    def _arm(self) -> None:
        deadline = self._exchange.deadline
        assert deadline is not None, "a copy was sent, so something is outstanding"
        self._timer = self._reactor.callLater(max(0.0, deadline - self._reactor.seconds()), self._expired)

    def _expired(self) -> None:
        self._timer = None
        copy = self._exchange.expired(self._reactor.seconds())
        if copy is None:
            heard = self._exchange.heard
            self._finish(Silent("stopped answering in the middle of the negotiation" if heard else "does not answer"))
            return
        self.send(copy)
        self._arm()

    def _finish(self, outcome: Outcome) -> None:
        self._cancel_timer()
        waiting, self._outcome = self._outcome, None
        if waiting is not None:
            waiting.callback(outcome)

    def _stop(self) -> None:
        self._cancel_timer()
        self._outcome = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class TcpSignalling(StreamProtocol):
    """One negotiation over TCP; the connection is closed with its end."""

    transport: Any

    def __init__(self, reactor: Reactor, role: ClientNegotiation) -> None:
        self.outcome: Deferred[Outcome] = Deferred(lambda _: self._close())
        """Fires with what came of it; may be cancelled."""
        self._reactor = reactor
        self._role = role
        self._timer: Any = None
        self._over = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._write(self._role.start())

    def dataReceived(self, data: bytes) -> None:
        if not self._over:
            self._perform(self._role.receive(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._over:
            self._perform(self._role.closed())

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Write):
                self._write(effect.text)
            elif not isinstance(effect, Poll):
                self._finish(effect)

    def _write(self, text: bytes) -> None:
        self.transport.write(text)
        self._cancel_timer()
        self._timer = self._reactor.callLater(REPLY_TIMEOUT, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._finish(Silent("stopped answering in the middle of the negotiation"))

    def _finish(self, outcome: Outcome) -> None:
        if not self._over:
            self._close()
            self.outcome.callback(outcome)

    def _close(self) -> None:
        self._over = True
        self._cancel_timer()
        if self.transport is not None:
            self.transport.loseConnection()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def negotiate_over_tcp(reactor: Reactor, remote: Endpoint, role: ClientNegotiation) -> Outcome:
    """One negotiation over a connection of its own."""
    endpoint: Any = TCP4ClientEndpoint(reactor, remote.address, remote.port, timeout=CONNECT_TIMEOUT)
    try:
        signalling: TcpSignalling = await connectProtocol(endpoint, TcpSignalling(reactor, role))
    except ConnectError as error:
        # Some of Twisted's texts are several lines with a traceback in them.
        return Silent("takes no TCP connection" + (f": {os.strerror(error.osError)}" if error.osError else ""))
    return await signalling.outcome
