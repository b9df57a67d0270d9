# SPDX-License-Identifier: GPL-2.0-or-later
"""ICMPv6 echoes through the kernel: a raw socket, for the data plane whose packets never come to this process.

Source: RFC 3542 (IPV6_PKTINFO, ICMP6_FILTER). The kernel fills in the checksum, routes requests to the device of the
tunnels, and gives us a copy of each echo reply to this machine, also to other programs' requests.
Invariant: one turn of the reactor reads a bounded number of them; nothing here raises once it is open.
Not here: what is asked and answered (`broker.probes`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from ddtb6.broker.planes import ECHO_IDENTIFIER
from ddtb6.dataplane import icmp6

REPLIES_A_TURN = 64
_ICMP6_FILTER = 1
_ONLY_REPLIES = struct.pack("=8I", *(0xFFFFFFFF ^ (1 << 1 if n == icmp6.ECHO_REPLY >> 5 else 0) for n in range(8)))
"""A bit for each type, 1 for what is not wanted; type 129 is bit 1 of word 4."""
_PKTINFO = struct.Struct("=16sI")
Hear = Callable[[bytes, bytes], bool]


class Readers(Protocol):
    """What is needed of a reactor."""

    def addReader(self, reader: Any) -> object: ...
    def removeReader(self, reader: Any) -> object: ...


@implementer(IReadDescriptor)
class EchoSocket:
    """Open until `close`."""

    def __init__(self, reactor: Readers, hear: Hear) -> None:
        """`hear` gets the sender of an echo reply with our identifier, 16 octets, and what is behind the checksum.

        Raises OSError: that needs CAP_NET_RAW.
        """
        self._reactor = reactor
        self._hear = hear
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _ONLY_REPLIES)
        reactor.addReader(self)

    def send(self, source: bytes, destination: bytes, rest: bytes) -> bool:
        """An echo request between two addresses of 16 octets; whether the kernel took it."""
        message = bytes((icmp6.ECHO_REQUEST, 0, 0, 0)) + rest
        here = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO.pack(source, 0))]
        there = (socket.inet_ntop(socket.AF_INET6, destination), 0, 0, 0)
        try:
            self._socket.sendmsg([message], here, 0, there)
        except OSError:
            return False
        return True

    def doRead(self) -> None:
        """Echo replies."""
        for _ in range(REPLIES_A_TURN):
            try:
                message, sender = self._socket.recvfrom(256)
            except OSError:
                return
            if len(message) >= 8 and message[4:6] == ECHO_IDENTIFIER.to_bytes(2, "big"):
                self._hear(socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0]), message[4:])

    def close(self) -> None:
        """Let go; twice is once."""
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "echoes"

    def connectionLost(self, reason: Failure) -> None:
        self.close()
