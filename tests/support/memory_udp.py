# SPDX-License-Identifier: GPL-2.0-or-later
"""A reactor under virtual time whose UDP ports are lists, and a RADIUS server to stand behind them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock

from ddtb6.radius.attributes import Attribute, Received
from ddtb6.radius.packets import Code, Incoming, make_reply

Sent = tuple["Port", bytes, tuple[str, int]]


class Port:
    """What `listenUDP` returns."""

    def __init__(self, reactor: MemoryUdp, protocol: DatagramProtocol, interface: str) -> None:
        self.reactor, self.protocol, self.interface = reactor, protocol, interface
        self.open = True

    def write(self, datagram: bytes, to: tuple[str, int]) -> None:
        assert self.open
        if self.reactor.error is not None:
            raise OSError(self.reactor.error, "as the test wants it")
        self.reactor.sent.append((self, datagram, to))
        if self.reactor.answer is not None:
            self.reactor.answer(self, datagram, to)

    def getHandle(self) -> Port:
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Nothing to set."""

    def stopListening(self) -> Deferred[None]:
        self.open = False
        return succeed(None)


class MemoryUdp(Clock):
    """The reactor, and the clock of `broker.ports` as well."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.sent: list[Sent] = []
        self.answer: Callable[[Port, bytes, tuple[str, int]], None] | None = None
        """Called for each datagram as it is sent."""
        self.error: int | None = None
        """The errno that sending fails with."""
        self.most_ports = 1000

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> Port:
        if len(self.open_ports()) >= self.most_ports:
            raise CannotListenError(interface, port, OSError(errno.EMFILE, "Too many open files"))
        self.ports.append(Port(self, protocol, interface))
        return self.ports[-1]

    def open_ports(self) -> list[Port]:
        return [each for each in self.ports if each.open]

    def monotonic(self) -> float:
        return self.seconds()

    def epoch(self) -> float:
        return 1_800_000_000.0 + self.seconds()

    def pass_time(self, seconds: float, step: float = 0.0625) -> None:
        for _ in range(round(seconds / step)):
            self.advance(step)


def reply_to(
    datagram: bytes, secret: bytes, code: Code, *attributes: Attribute, sign: bool = True, identifier: int | None = None
) -> bytes:
    """A genuine answer to the request in `datagram`."""
    asked = Incoming(
        Code(datagram[0]), datagram[1] if identifier is None else identifier, datagram[4:20], Received(), sign
    )
    return make_reply(code, asked, secret, attributes)
