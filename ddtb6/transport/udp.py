# SPDX-License-Identifier: GPL-2.0-or-later
"""TSP over UDP: one port, many peers, and tunnelled packets among the signalling.

Order of work for a datagram: tell signalling from data by the first nibble; admit before there is state; answer
duplicates without running them again; then one step of the negotiation.
Invariants: a peer is the pair of local and remote endpoint; only VERSION makes one; the number of peers is bounded by
admission; what a stranger sends is never logged.
Not here: sockets (`socket`), the reliability header (`tsp.framing`), effects (`driver`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ddtb6.addressing.endpoint import Carrier, Endpoint, Link
from ddtb6.broker.admission import Admission
from ddtb6.broker.broker import Broker, Visitor
from ddtb6.broker.ports import Clock
from ddtb6.broker.wheel import Wheel
from ddtb6.transport.driver import Driver
from ddtb6.transport.socket import UdpSocket
from ddtb6.tsp import codec, framing
from ddtb6.tsp.effects import DeadlinePassed
from ddtb6.tsp.messages import Request
from ddtb6.tsp.states import State
from ddtb6.tsp.status import ServerBusy

LINGER = 30.0
"""Seconds for which a finished negotiation still answers duplicates: a lost reply to accept is asked for again."""

EVICTION_TRIES = 16
"""Peers looked at for one to give up when all places are taken; those that have proved themselves go to the back."""

_READ: dict[codec.Phase, Callable[[bytes], Request]] = {
    codec.Phase.VERSION: codec.read_version,
    codec.Phase.AUTHENTICATE: codec.read_authenticate,
    codec.Phase.SASL_LINE: codec.read_sasl,
    codec.Phase.COMMAND: codec.read_command,
}
_BUSY = codec.write_status(ServerBusy().line)
_OPENING = b"VERSION="

Path = tuple[Carrier, Endpoint, Endpoint]
"""What a `Link` is equal to; quicker to make for a look at the peers."""

DataSink = Callable[[bytes, Endpoint, Endpoint], None]
"""Called with (datagram, local, remote) for what is tunnelled."""


class Peer:
    """A visitor over UDP; the `Wire` of its negotiation."""

    __slots__ = ("_socket", "exchange", "forgotten", "heard", "visitor")

    def __init__(self, socket: UdpSocket, visitor: Visitor, now: float) -> None:
        self._socket = socket
        self.visitor = visitor
        self.exchange = framing.Exchange(framing.OVERHEAD[socket.family])
        self.forgotten = False
        """The client has started over; what was still to be said in answer to this is not for it."""
        self.heard = now
        """Monotonic second of its last message, copies left out."""

    def send(self, datagram: bytes) -> None:
        link = self.visitor.link
        self._socket.send(datagram, link.local, link.remote)

    def reply(self, payload: bytes) -> None:
        if self.exchange.owing and not self.forgotten:
            self.send(self.exchange.reply(payload))

    def followup(self, payload: bytes) -> None:
        self.exchange.followup(payload)

    def proven(self) -> None:
        self.exchange.proven = True

    def hangup(self) -> None:
        """Nothing to do: `UdpSignalling` forgets it when duplicates have died out."""


class UdpSignalling:
    """All UDP peers of the process."""

    def __init__(self, broker: Broker, driver: Driver, clock: Clock, data: DataSink | None, most: int) -> None:
        """At most `most` peers are kept.

        `data` takes tunnelled packets; None where the kernel does, and the few that still come here are dropped.
        """
        self._broker = broker
        self._driver = driver
        self._clock = clock
        self._data = data
        self._most = most
        self._peers: OrderedDict[Path, Peer] = OrderedDict()
        self._wheel: Wheel[Path] = Wheel(clock.monotonic())

    def __len__(self) -> int:
        """Peers, those included whose negotiation is over and that are kept for duplicates."""
        return len(self._peers)

    def under_way(self) -> int:
        """Those whose negotiation has not come to a tunnel or to an end; takes milliseconds with 50,000 peers."""
        return sum(peer.visitor.negotiation.state not in (State.UP, State.ENDED) for peer in self._peers.values())

    def receive(self, socket: UdpSocket, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """One datagram. Never raises for what it holds."""
        kind = framing.classify(datagram)
        if kind is framing.Kind.DATA:
            if self._data is not None:
                self._data(datagram, local, remote)
        elif kind is framing.Kind.SIGNALLING:
            self._signalling(socket, datagram, local, remote)

    def _signalling(self, socket: UdpSocket, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        header, text = framing.unpack(datagram)
        path = (Carrier.UDP, local, remote)
        peer = self._peers.get(path)
        if peer is None or peer.exchange.opens_again(header, text):
            link = Link._make(path)
            if text[: len(_OPENING)].upper() != _OPENING:
                if text.startswith(framing.ECHO_REQUEST) and self._broker.may_echo(link):
                    socket.send(framing.echo_reply(header), local, remote)
                return
            verdict = self._broker.admit(link, 0 if self._has_room() else self._most)
            if verdict is not Admission.WELCOME:
                if verdict is Admission.BUSY:
                    socket.send(header.raw + _BUSY, local, remote)
                return
            now = self._clock.monotonic()
            if peer is None:
                self._wheel.schedule(link, now + LINGER)
            else:
                peer.forgotten = True
            # A restarted client takes over its own mapping. The tunnel it may have stays until it has logged in again:
            # whoever can send one datagram with its address could end it otherwise.
            peer = self._peers[link] = Peer(socket, self._broker.welcome(link), now)
        match peer.exchange.receive(header, text, len(datagram)):
            case framing.Fresh(text):
                phase = peer.visitor.negotiation.phase
                if phase is not None:
                    peer.heard = self._clock.monotonic()
                    self._driver.take(peer.visitor, peer, _READ[phase](text))
            case framing.Answer(answer):
                peer.send(answer)
            case _:
                pass

    def _has_room(self) -> bool:
        """Whether there is room for one more, made at the cost of the oldest peer that has proved nothing.

        Forged VERSION lines would otherwise keep every honest client out for as long as a negotiation may take.
        """
        if len(self._peers) < self._most:
            return True
        for _ in range(EVICTION_TRIES):
            key, peer = self._peers.popitem(last=False)
            if not peer.exchange.proven:
                return True
            self._peers[key] = peer
        return False

    def tick(self) -> None:
        """To be called once a second: deadlines, and peers to forget."""
        now = self._clock.monotonic()
        for key in self._wheel.due(now):
            peer = self._peers.get(key)
            if peer is None:
                continue
            negotiation = peer.visitor.negotiation
            over = negotiation.state in (State.UP, State.ENDED)
            deadline = peer.heard + LINGER if over else negotiation.deadline
            if now < deadline:
                self._wheel.schedule(key, deadline)
            elif over:
                del self._peers[key]
            else:
                self._driver.take(peer.visitor, peer, DeadlinePassed())
                if negotiation.state is State.ENDED:
                    # A client that now starts over with the very words it began with must not be taken for a copy.
                    del self._peers[key]
                else:
                    self._wheel.schedule(key, now + LINGER)
